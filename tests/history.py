"""The rows of a server that has recorded for long: many sessions of several projects, with all that belongs to them.

The rows are made by SQL from a range of numbers, so that a million sessions take minutes. One in a thousand is rare in
each respect by which lists are filtered, so that a search that passes rows over shows.
"""

from collections.abc import Callable
from dataclasses import dataclass

from audio.models import metadata_digest

# A session begins every SECONDS_BETWEEN; number 0 is the oldest.
SECONDS_BETWEEN = 20
PROJECTS = ("default", "phone", "court", "tiny")
OPEN = 20
_LENGTH_SECONDS = 600
# A thousandth of the sessions belongs to the last project, and a hundredth has no audio.
_PROJECT = f"CASE WHEN n % 1000 = 7 THEN {len(PROJECTS)} WHEN n % 10 = 0 THEN 3 ELSE 1 + n % 2 END"
# Rows that a server adds behind these have room before those that are filled in next.
_SPACED = "1 + n * 1000"
_IS_EMPTY = "n % 100 = 37"
HASH = 2654435761


@dataclass(frozen=True)
class Dialect:
    """The differences of the two databases: the numbers of a range, a key made of a number, a time, and booleans."""

    numbers: str
    key: str
    uuid: str
    time: str
    true: str
    false: str
    json: str


SQLITE = Dialect(
    numbers="WITH RECURSIVE number (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM number WHERE n < {last})",
    key="printf('%08x%04x%020x', ({n} * 2654435761) & 4294967295, {kind}, {n})",
    uuid="'{text}'",
    time="datetime('now', '-' || ({seconds}) || ' seconds')",
    true="1",
    false="0",
    json="{text}",
)
POSTGRESQL = Dialect(
    numbers="WITH number (n) AS (SELECT generate_series({first}::bigint, {last}::bigint))",
    key=(
        "(lpad(to_hex(({n} * 2654435761) & 4294967295), 8, '0') || lpad(to_hex({kind}), 4, '0')"
        " || lpad(to_hex({n}), 20, '0'))::uuid"
    ),
    uuid="'{text}'::uuid",
    time="date_trunc('second', now()) - ({seconds}) * interval '1 second'",
    true="true",
    false="false",
    json="({text})::jsonb",
)


def session_id(number: int) -> str:
    """Return the id of a session in hexadecimal."""
    return f"{(number * HASH) & 0xFFFFFFFF:08x}{0:04x}{number:020x}"


def fill(execute: Callable[[str], object], vendor: str, first: int, last: int) -> None:
    """Insert the sessions from one number to another, and all their rows. The tables of other rows are small.

    Args:
        execute: Executes a statement.
        vendor: The kind of the database, as Django names it.
        first: The first number; 0 for an empty database, which is then also given its projects and a webhook.
        last: The last number. Every second one of the last OPEN is open.
    """
    made = _Statements(SQLITE if vendor == "sqlite" else POSTGRESQL, first, last)
    for statement in [*(made.small_tables() if first == 0 else ()), *made.rows(), *made.sequences()]:
        execute(statement)


class _Statements:
    """The statements, in the order of the foreign keys."""

    def __init__(self, dialect: Dialect, first: int, last: int) -> None:
        self._dialect = dialect
        self._numbers = dialect.numbers.format(first=first, last=last)
        self._last = last
        self._age = f"({last} - n) * {SECONDS_BETWEEN}"
        self._is_open = f"(n > {last - OPEN} AND n % 2 = 0)"

    def _key(self, kind: int = 0, number: str = "n") -> str:
        return self._dialect.key.format(n=number, kind=kind)

    def _time(self, seconds: str) -> str:
        return self._dialect.time.format(seconds=seconds)

    def _boolean(self, condition: str) -> str:
        return f"CASE WHEN {condition} THEN {self._dialect.true} ELSE {self._dialect.false} END"

    def _insert(self, table: str, condition: str = "true", **values: str) -> str:
        columns = ", ".join(f'"{name}"' for name in values)
        chosen = ", ".join(values.values())
        numbers = self._numbers if "n" in condition or "n" in chosen else ""
        return f"INSERT INTO audio_{table} ({columns}) {numbers} SELECT {chosen} FROM number WHERE {condition}"

    def small_tables(self) -> list[str]:
        """Projects, a webhook of the second one, a process and a journal."""
        dialect = self._dialect
        names = ", ".join(f"({key}, '{name}', {self._time('0')})" for key, name in enumerate(PROJECTS[1:], 2))
        webhook = f"{self._key(9, '1')}, 2, 'https://example.org/hook', '[]', '', {dialect.true}, '', {self._time('0')}"
        return [
            f"INSERT INTO audio_project (id, name, created_at) VALUES {names}",
            "INSERT INTO audio_webhookendpoint (id, project_id, url, event_types, description, is_enabled,"
            f" disabled_reason, created_at) VALUES ({webhook})",
        ]

    def rows(self) -> list[str]:
        """The sessions, and the rows of each."""
        return [
            self._journals(), self._sessions(), self._recordings(), *self._metadata(), self._sources(), self._chunks(),
            *self._tasks(), self._markers(), *self._events(), *self._deliveries(), *self._audit(),
        ]  # fmt: skip

    def sequences(self) -> list[str]:
        """Statements after which new rows get keys behind those of these rows; SQLite needs none."""
        tables = ("project", "journalfile", "audiosource", "webhookevent") if self._dialect is POSTGRESQL else ()
        return [
            f"SELECT setval(pg_get_serial_sequence('audio_{table}', 'id'), (SELECT max(id) FROM audio_{table}))"
            for table in tables
        ]

    def _journals(self) -> str:
        return self._insert(
            "journalfile", "n % 1000 = 0", id="1 + n / 1000", name="'journals/' || n",
            process_id=self._key(8), created_at=self._time(self._age),
        )  # fmt: skip

    def _sessions(self) -> str:
        dialect = self._dialect
        room = dialect.json.format(text="""'{"room": "' || (n % 10) || '"}'""")
        rare = dialect.json.format(text="""'{"room": "rare"}'""")
        nothing = dialect.json.format(text="'{}'")
        return self._insert(
            "audiosession",
            id=self._key(),
            project_id=_PROJECT,
            user_id="CASE WHEN n % 1000 = 11 THEN 'rare' WHEN n % 3 = 0 THEN NULL ELSE 'user-' || (n % 100) END",
            status=f"CASE WHEN {self._is_open} THEN 'active' ELSE 'completed' END",
            start_time=self._time(self._age),
            end_time=f"CASE WHEN {self._is_open} THEN NULL ELSE {self._time(f'{self._age} - {_LENGTH_SECONDS}')} END",
            sample_rate="16000",
            channels="1",
            format="CASE WHEN n % 1000 = 13 THEN 'flac' WHEN n % 4 = 0 THEN 'webm' ELSE 'wav' END",
            encoding="'s16le'",
            chunk_mode="'auto'",
            undecided=dialect.json.format(text="'[]'"),
            total_chunks=f"CASE WHEN {_IS_EMPTY} THEN 0 ELSE 1 END",
            byte_count=f"CASE WHEN {_IS_EMPTY} THEN 0 ELSE 32000 END",
            last_chunk_at=self._time(f"{self._age} - {_LENGTH_SECONDS}"),
            dropped_at=f"CASE WHEN {self._is_open} THEN {self._time('0')} ELSE {self._time(self._age)} END",
            recovered="''",
            name="CASE WHEN n % 1000 = 17 THEN 'Rare ' || n WHEN n % 2 = 0 THEN 'Meeting ' || n ELSE NULL END",
            metadata=f"CASE WHEN n % 1000 = 31 THEN {rare} WHEN n % 5 = 0 THEN {room} ELSE {nothing} END",
            retention_days="CASE WHEN n % 100 = 0 THEN 3650 ELSE NULL END",
            legal_hold=self._boolean("n % 1000 = 19"),
        )

    def _recordings(self) -> str:
        nothing, empty = self._dialect.json.format(text="'{}'"), self._dialect.json.format(text="'[]'")
        states = f"WHEN {self._is_open} THEN 'live' WHEN {_IS_EMPTY} THEN 'empty'"
        state = f"CASE {states} WHEN n % 1000 = 23 THEN 'failed' ELSE 'ready' END"
        texts = dict.fromkeys(
            ("master_name", "master_encoding", "error_code", "error_detail", "rebuild_error_code"), "''"
        )
        return self._insert(
            "recording", session_id=self._key(), state=state, **texts, rebuild_error_detail="''",
            master_bytes="32000", sample_rate="16000", channels="1", chunks_done="1", checkpoint=nothing,
            progress="1.0", file_name="'recording.wav'", format="'wav'", size_bytes="32044", duration_seconds="1.0",
            sha256=f"CASE WHEN {self._is_open} THEN '' ELSE 'sha256' END", ready_at=self._time(self._age),
            is_without_audio=self._boolean(_IS_EMPTY), is_local=self._dialect.true, warnings=empty,
            updated_at=self._time(self._age),
        )  # fmt: skip

    def _metadata(self) -> list[str]:
        conditions = {"rare": "n % 1000 = 31", "0": "n % 10 = 0", "5": "n % 10 = 5"}
        return [
            self._insert(
                "metadataentry", condition,
                session_id=self._key(), digest=self._dialect.uuid.format(text=metadata_digest("room", room).hex),
            )
            for room, condition in conditions.items()
        ]  # fmt: skip

    def _sources(self) -> str:
        return self._insert("audiosource", id=_SPACED, session_id=self._key(), name="''", epoch="0", chunk_count="0")

    def _chunks(self) -> str:
        return self._insert(
            "audiochunk", f"NOT ({_IS_EMPTY})", session_id=self._key(), sequence="1", source_id=_SPACED,
            journal_id="1 + n / 1000", offset="n * 32000", size_bytes="32000", crc32="0",
            received_at=self._time(self._age),
        )  # fmt: skip

    def _tasks(self) -> list[str]:
        def tasks(kind: int, name: str, audio_format: str, condition: str) -> str:
            return self._insert(
                "backgroundtask", f"{condition} AND NOT {self._is_open}", id=self._key(kind), session_id=self._key(),
                project_id=_PROJECT, kind=f"'{name}'", format=f"'{audio_format}'", is_current=self._dialect.true,
                state="CASE WHEN n % 1000 = 29 THEN 'failed' ELSE 'completed' END",
                progress="1.0", seconds_done="1.0", file_name="'derived'", error_code="''", error_detail="''",
                created_at=self._time(self._age), updated_at=self._time(self._age),
            )  # fmt: skip

        return [tasks(1, "waveform", "", "true"), tasks(2, "transcode", "mp3", "n % 10 = 0")]

    def _markers(self) -> str:
        return self._insert(
            "marker", "n % 20 = 0", id=self._key(3), session_id=self._key(), label="'here'", position_seconds="0.5",
            created_at=self._time(self._age),
        )  # fmt: skip

    def _events(self) -> list[str]:
        types = ("session.opened", "session.closed", "recording.ready")
        return [
            self._insert(
                "webhookevent", "true" if number == 0 else f"NOT {self._is_open}", id=f"{_SPACED} + {number}",
                uid=self._key(4 + number), type=f"'{name}'", position=f"{_SPACED} + {number}",
                project_id=_PROJECT, session_id=self._key(), at=self._time(self._age),
                data=self._dialect.json.format(text="'{}'"),
            )
            for number, name in enumerate(types)
        ]  # fmt: skip

    def _deliveries(self) -> list[str]:
        attempts = {"duration_ms": "12", "status_code": "200", "error": "''", "answer": "''"}
        return [
            self._insert(
                "webhookdelivery", f"{_PROJECT} = 2", id=self._key(7), endpoint_id=self._key(9, "1"),
                event_id=_SPACED, state="'delivered'", attempt_count="1", due_at=self._time(self._age),
                created_at=self._time(self._age), ended_at=self._time(self._age),
            ),
            self._insert(
                "webhookattempt", f"{_PROJECT} = 2", delivery_id=self._key(7), at=self._time(self._age), **attempts
            ),
        ]  # fmt: skip

    def _audit(self) -> list[str]:
        return [
            self._insert(
                "auditentry", session_id=self._key(), at=self._time(self._age), project="'default'",
                actor="'key abc'", action=f"'{action}'", details=self._dialect.json.format(text="'{}'"),
            )
            for action in ("session.opened", "session.closed")
        ]  # fmt: skip
