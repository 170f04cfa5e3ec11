"""Records survive a round trip, and nothing else is taken for one."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from audio.journal.records import (
    HEADER_BYTES,
    Committed,
    RecordType,
    commit_record,
    pack_header,
    parse_commit,
    parse_header,
    parse_session,
    parse_void,
    session_record,
    void_record,
)

NUMBERS = st.integers(min_value=0, max_value=2**64 - 1)
SMALL = st.integers(min_value=0, max_value=2**32 - 1)


@given(st.sampled_from(RecordType), st.uuids(), SMALL, SMALL, NUMBERS, NUMBERS, NUMBERS, SMALL)
def test_a_header_survives_the_round_trip(kind, session, crc32, length, source, number, received, epoch):
    packed = pack_header(kind, crc32, length, session.bytes, source, number, received, epoch)
    assert len(packed) == HEADER_BYTES
    header = parse_header(packed)
    assert header is not None
    assert (header.type, header.session_id, header.payload_crc32, header.length_bytes) == (kind, session, crc32, length)
    assert (header.source_id, header.number, header.received_at_us, header.epoch) == (source, number, received, epoch)


@given(st.integers(min_value=0, max_value=HEADER_BYTES * 8 - 1))
def test_a_flipped_bit_is_noticed(bit):
    packed = bytearray(pack_header(RecordType.CHUNK, 1, 2, uuid.uuid4().bytes, 3, 4, 5, 6))
    packed[bit // 8] ^= 1 << bit % 8
    assert parse_header(bytes(packed)) is None


@given(st.binary(max_size=HEADER_BYTES - 1))
def test_a_cut_header_is_none(data):
    assert parse_header(data) is None


@given(st.lists(NUMBERS, max_size=20))
def test_a_void_record_says_which(offsets):
    assert list(parse_void(void_record(offsets)[HEADER_BYTES:])) == offsets


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=20))
def test_a_commit_record_says_where_each_chunk_stands(entries):
    committed = [Committed(*entry) for entry in entries]
    assert list(parse_commit(commit_record(committed)[HEADER_BYTES:])) == committed


def test_a_session_record_describes_the_session():
    session = uuid.uuid4()
    record = session_record(session.bytes, 9, {"format": "wav", "source": "mic"})
    header = parse_header(record[:HEADER_BYTES])
    assert header is not None
    assert (header.type, header.session_id, header.source_id) == (RecordType.SESSION, session, 9)
    assert parse_session(record[HEADER_BYTES:]) == {"format": "wav", "source": "mic"}
