"""The file that describes a session whose details were changed, beside its recording.

The journals describe a session as it was when its chunks came. A later change of its details is in the database and in
this file, so that the file has them if the database is lost (`audio.integrity.reindex`).
"""

import json
import uuid
from typing import Any

from audio.storage import durable, paths

NAME = "session.json"


def write(session_id: uuid.UUID, description: dict[str, Any]) -> None:
    """Write the file durably. The caller has locked the session's row.

    Raises:
        OSError: The file could not be written.
    """
    durable.replace(paths.folder(session_id) / NAME, json.dumps(description, sort_keys=True).encode())


def read(session_id: uuid.UUID) -> dict[str, Any]:
    """Return what the file says; nothing if there is no file.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        description: dict[str, Any] = json.loads((paths.folder(session_id) / NAME).read_bytes())
    except FileNotFoundError:
        return {}
    return description
