"""The files beside a recording that describe its session: its details, if they were changed, and its markers.

The journals describe a session as it was when its chunks arrived. Later changes of its details, and its markers, are in
the database and in these files, from which they are restored if the database is lost (`audio.integrity.reindex`).
"""

import json
import uuid
from typing import Any

from audio.storage import durable, paths

NAME = "session.json"
MARKERS_NAME = "markers.json"


def write(session_id: uuid.UUID, description: dict[str, Any], name: str = NAME) -> None:
    """Write a file durably. The caller has locked the session's row.

    Raises:
        OSError: The file could not be written.
    """
    durable.replace(paths.folder(session_id) / name, json.dumps(description, sort_keys=True).encode())


def read(session_id: uuid.UUID, name: str = NAME) -> dict[str, Any]:
    """Return the content of a file; empty if there is no file.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        description: dict[str, Any] = json.loads((paths.folder(session_id) / name).read_bytes())
    except FileNotFoundError:
        return {}
    return description
