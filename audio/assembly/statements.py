"""The SQL that commits the windows of many sessions at once, in the dialects of SQLite and PostgreSQL.

Django's `bulk_update` creates a CASE for every row and column, which costs more than the windows themselves.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from audio.models import Recording

_TABLE = Recording._meta.db_table
# The columns, with their types in PostgreSQL.
_COLUMNS = {
    "master_name": "text",
    "master_bytes": "bigint",
    "master_encoding": "text",
    "sample_rate": "integer",
    "channels": "smallint",
    "warnings": "jsonb",
    "chunks_done": "bigint",
    "checkpoint": "jsonb",
}
_SET = "SET state = 'live', token = NULL, progress = 0, updated_at = "
_POSTGRESQL = (
    f"UPDATE {_TABLE} AS recording {_SET} statement_timestamp(), "
    + ", ".join(f"{name} = made.{name}" for name in _COLUMNS)
    + " FROM jsonb_to_recordset(%s::jsonb) AS made (session_id uuid, "
    + ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
    + ") WHERE recording.session_id = made.session_id AND recording.token = %s RETURNING recording.session_id"
)
_SQLITE = (
    f"UPDATE {_TABLE} {_SET} %s, "
    + ", ".join(f"{name} = json_extract(made.value, '$.{name}')" for name in _COLUMNS)
    + " FROM json_each(%s) AS made"
    + f" WHERE {_TABLE}.session_id = json_extract(made.value, '$.session_id') AND token = %s RETURNING session_id"
)


def commit_windows(token: uuid.UUID, windows: Mapping[uuid.UUID, Mapping[str, Any]]) -> list[uuid.UUID]:
    """Write the results of windows to the rows of their recordings, which become `live`, and give up their claims.

    Args:
        token: The claim. A recording with another claim does not change.
        windows: The values of the rows, by their sessions.

    Returns:
        The sessions whose recordings were changed.
    """
    if not windows:
        return []
    is_native = connection.features.has_native_uuid_field
    rows = [{"session_id": str(key) if is_native else key.hex, **values} for key, values in windows.items()]
    with transaction.atomic(), connection.cursor() as cursor:
        if is_native:
            cursor.execute(_POSTGRESQL, [json.dumps(rows), token])
        else:
            now = connection.ops.adapt_datetimefield_value(timezone.now())
            cursor.execute(_SQLITE, [now, json.dumps(rows), token.hex])
        return [key if is_native else uuid.UUID(key) for (key,) in cursor.fetchall()]
