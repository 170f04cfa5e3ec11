"""PURE. The format of a journal file: framed records, one after the other.

A record is a 64-byte header and a payload. All numbers are little-endian:

    offset  size  field
         0     4  magic, b"SSJ1"
         4     1  type: 1 chunk, 2 void, 3 commit, 4 session
         5     1  flags: bit 0 says that the payload was erased: its session was deleted, or it was refused; bit 1 that
                  it was erased because the chunk was moved to another file
         6     2  reserved, zero
         8    16  session id (UUID, RFC 9562), zero in a commit record
        24     8  source id, the database's number of the producer
        32     8  number of the chunk in its source, counted from one by its connection
        40     8  received_at, microseconds since the Unix epoch, UTC
        48     4  epoch of the source
        52     4  length of the payload in bytes
        56     4  CRC-32 (ISO 3309, as zlib's) of the payload
        60     4  CRC-32 of the header's first 60 bytes

Payloads: of a chunk, its bytes; of a void, the offsets (8 bytes each) of chunk records in this file that were
refused after they had been written; of a commit, triples (offset 8, sequence 8, source's count 8) of chunk
records in this file that the database has taken; of a session, JSON with the parameters of the session and the
name of the source, written before the first chunk that either has in this file.

A chunk that neither a void nor a commit names was in flight when the process ended: only the database knows.
A file ends where a record is cut short or its header's CRC fails: its process died there and nobody appends to
a file that it did not create.
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
    """What a record is."""

    CHUNK = 1
    VOID = 2
    COMMIT = 3
    SESSION = 4


@dataclass(frozen=True, slots=True)
class Header:
    """A record's header. `received_at_us` is in microseconds since the epoch."""

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
    """One entry of a commit record: the chunk at `offset` has place `sequence` in its session."""

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
    """Takes the fields of a header (`session` as 16 bytes); returns its 64 bytes."""
    fields = _FIELDS.pack(
        MAGIC, kind, flags, 0, session, source_id, number, received_at_us, epoch, length_bytes, payload_crc32
    )
    return fields + _CRC.pack(zlib.crc32(fields))


def parse_header(data: bytes) -> Header | None:
    """Takes 64 bytes; returns the header in them, or None where there is none (the end of a torn file)."""
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
    """Takes the offsets of refused chunk records; returns the record that says so."""
    return _record(RecordType.VOID, b"".join(map(_OFFSET.pack, offsets)))


def parse_void(payload: bytes) -> Iterator[int]:
    """Takes the payload of a void record; gives the offsets in it."""
    return (offset for (offset,) in _OFFSET.iter_unpack(payload))


def commit_record(entries: Iterable[Committed]) -> bytes:
    """Takes what the database has committed; returns the record that says so."""
    return _record(
        RecordType.COMMIT,
        b"".join(_COMMITTED.pack(*entry) for entry in entries),
    )


def parse_commit(payload: bytes) -> Iterator[Committed]:
    """Takes the payload of a commit record; gives its entries."""
    return (Committed(*entry) for entry in _COMMITTED.iter_unpack(payload))


def session_record(session: bytes, source_id: int, description: dict[str, Any]) -> bytes:
    """Takes a session (16 bytes), a source's number and what is known of both; returns the record."""
    return _record(RecordType.SESSION, json.dumps(description, sort_keys=True).encode(), session, source_id)


def parse_session(payload: bytes) -> dict[str, Any]:
    """Takes the payload of a session record; returns the description in it."""
    description: dict[str, Any] = json.loads(payload)
    return description
