"""PURE. The format of a journal file: framed records, one after the other.

A record is a 64-byte header and a payload. All numbers are little-endian:

    offset  size  field
         0     4  magic, b"SSJ1"
         4     1  type: 1 chunk, 2 void, 3 commit, 4 session
         5     1  flags: bit 0 is set if the payload was erased, because its session was deleted or the chunk was
                  rejected; bit 1 is set if it was erased because the chunk was moved to another file
         6     2  reserved, zero
         8    16  session id (UUID, RFC 9562), zero in a commit record
        24     8  source id, the database's number of the producer
        32     8  number of the chunk in its source, counted from one by its connection
        40     8  received_at, microseconds since the Unix epoch, UTC
        48     4  epoch of the source
        52     4  length of the payload in bytes
        56     4  CRC-32 of the payload (ISO 3309, the same as zlib's)
        60     4  CRC-32 of the header's first 60 bytes

The payload depends on the type:

    chunk    the bytes of the chunk
    void     the offsets (8 bytes each) of chunk records in this file that were rejected after they had been written
    commit   a triple (offset 8, sequence 8, count of the source 8) for each chunk record in this file that the
             database has accepted
    session  JSON with the parameters of the session and the name of the source, written before the first chunk that
             either has in this file

A chunk that neither a void nor a commit names was in flight when the process ended. Only the database knows whether it
was accepted. A file ends where a record is cut short or the CRC of its header fails: its process died there, and no
other process appends to the file.
"""

import json
import struct
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

MAGIC = b"SSJ1"
HEADER_BYTES = 64
ERASED = 1
MOVED = 2
_FIELDS = struct.Struct("<4sBBH16sQQQIII")
_CRC = struct.Struct("<I")
_OFFSET = struct.Struct("<Q")
_COMMITTED = struct.Struct("<QQQ")
_NO_SESSION = bytes(16)


class RecordType(IntEnum):
    """The type of a record."""

    CHUNK = 1
    VOID = 2
    COMMIT = 3
    SESSION = 4


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a record. `received_at_us` counts microseconds since the Unix epoch."""

    type: RecordType
    length_bytes: int
    payload_crc32: int
    session_id: uuid.UUID
    source_id: int
    number: int
    received_at_us: int
    epoch: int
    erased: bool = False
    moved: bool = False


class Committed(NamedTuple):
    """One entry of a commit record: the chunk at `offset` has the number `sequence` in its session."""

    offset: int
    sequence: int
    source_count: int


def pack_header(
    kind: RecordType,
    payload_crc32: int,
    length_bytes: int,
    session: bytes = _NO_SESSION,
    source_id: int = 0,
    number: int = 0,
    received_at_us: int = 0,
    epoch: int = 0,
    flags: int = 0,
) -> bytes:
    """Return the 64 bytes of a header. `session` is the session id as 16 bytes."""
    fields = _FIELDS.pack(
        MAGIC, kind, flags, 0, session, source_id, number, received_at_us, epoch, length_bytes, payload_crc32
    )
    return fields + _CRC.pack(zlib.crc32(fields))


def parse_header(data: bytes) -> Header | None:
    """Return the header in the first 64 bytes of `data`; None if there is none, as after an incomplete write."""
    if len(data) < HEADER_BYTES or data[:4] != MAGIC:
        return None
    (crc32,) = _CRC.unpack_from(data, 60)
    if crc32 != zlib.crc32(data[:60]):
        return None
    _, kind, flags, _, session, source_id, number, received_at_us, epoch, length, payload_crc32 = _FIELDS.unpack_from(
        data
    )
    try:
        record_type = RecordType(kind)
    except ValueError:
        return None
    return Header(
        type=record_type,
        length_bytes=length,
        payload_crc32=payload_crc32,
        session_id=uuid.UUID(bytes=session),
        source_id=source_id,
        number=number,
        received_at_us=received_at_us,
        epoch=epoch,
        erased=bool(flags & ERASED),
        moved=bool(flags & MOVED),
    )


def _record(kind: RecordType, payload: bytes, session: bytes = _NO_SESSION, source_id: int = 0) -> bytes:
    return pack_header(kind, zlib.crc32(payload), len(payload), session, source_id) + payload


def void_record(offsets: Iterable[int]) -> bytes:
    """Return the record that marks the chunk records at these offsets as rejected."""
    return _record(RecordType.VOID, b"".join(map(_OFFSET.pack, offsets)))


def parse_void(payload: bytes) -> Iterator[int]:
    """Return an iterator over the offsets in the payload of a void record."""
    return (offset for (offset,) in _OFFSET.iter_unpack(payload))


def commit_record(entries: Iterable[Committed]) -> bytes:
    """Return the record that lists the chunks that the database has committed."""
    return _record(
        RecordType.COMMIT,
        b"".join(_COMMITTED.pack(*entry) for entry in entries),
    )


def parse_commit(payload: bytes) -> Iterator[Committed]:
    """Return an iterator over the entries in the payload of a commit record."""
    return (Committed(*entry) for entry in _COMMITTED.iter_unpack(payload))


def session_record(session: bytes, source_id: int, description: dict[str, Any]) -> bytes:
    """Return the record that describes a session (its id as 16 bytes) and a source (by its number)."""
    return _record(RecordType.SESSION, json.dumps(description, sort_keys=True).encode(), session, source_id)


def parse_session(payload: bytes) -> dict[str, Any]:
    """Return the description in the payload of a session record."""
    description: dict[str, Any] = json.loads(payload)
    return description
