"""Chunks that wait in memory or in files, and the outbox that sends them again."""

import asyncio

import pytest
from sercuescribe_client import ScribeError
from sercuescribe_client.outbox import ChunkItem, ControlItem, Outbox
from sercuescribe_client.spool import FILE_BYTES, FileSpool, MemorySpool

CHUNK_BYTES = FILE_BYTES // 4


@pytest.fixture(params=[MemorySpool, FileSpool])
def spool(request):
    made = request.param()
    yield made
    made.close()


def test_chunks_are_read_as_they_were_put_in_any_order(spool):
    payloads = [bytes([number]) * (CHUNK_BYTES + number) for number in range(10)]
    stored = [spool.put(payload) for payload in payloads]
    for number in reversed(range(10)):
        assert stored[number].read() == payloads[number]
        assert stored[number].size_bytes == len(payloads[number])
    for chunk in stored[:5]:
        chunk.discard()
    assert [chunk.read() for chunk in stored[5:]] == payloads[5:]


def test_a_spool_of_files_keeps_no_more_than_what_waits():
    spool = FileSpool()
    for number in range(40):
        chunk = spool.put(bytes([number]) * CHUNK_BYTES)
        assert chunk.read() == bytes([number]) * CHUNK_BYTES
        chunk.discard()
        assert sum(file.size_bytes for file in spool._files) == 0
    spool.close()


def outbox_of(*payloads: bytes) -> Outbox:
    outbox, spool = Outbox(), MemorySpool()
    for payload in payloads:
        outbox.add(ChunkItem(spool.put(payload)))
    return outbox


async def test_what_the_server_has_is_not_sent_again():
    outbox = outbox_of(b"a", b"b")
    marker = ControlItem({"type": "marker", "label": "x"}, asyncio.get_running_loop().create_future())
    outbox.add(marker)
    outbox.add(ChunkItem(MemorySpool().put(b"c")))
    late = ControlItem({"type": "marker", "label": "y"}, asyncio.get_running_loop().create_future())
    outbox.add(late)
    while outbox.take():
        pass
    outbox.answered()
    outbox.reconnect(3)  # the answers to b, x and c were lost with the connection
    assert marker.answer.done() and not late.answer.done()
    assert (outbox.acknowledged_chunk_count, outbox.acknowledged_bytes, outbox.pending_bytes) == (3, 3, 0)
    assert outbox.take() is late and outbox.take() is None


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_that_cannot_be_is_an_error(count):
    outbox = outbox_of(b"a", b"b", b"c")
    outbox.take()
    outbox.answered()
    with pytest.raises(ScribeError, match=f"The server has {count} chunks of this source"):
        outbox.reconnect(count)
