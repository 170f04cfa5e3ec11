"""Journal files on a real disk."""

import errno
import os
import resource
import subprocess
import sys
import uuid
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio.errors import ChunkDamagedError
from audio.journal.files import Damage, Extent, JournalReader, JournalWriter, erase, resumes_at, scan, walk
from audio.journal.records import HEADER_BYTES, MAGIC, RecordType, pack_header

SESSION = uuid.uuid4()


def chunk(payload: bytes) -> list[bytes]:
    return [pack_header(RecordType.CHUNK, zlib.crc32(payload), len(payload), SESSION.bytes, 1, 1, 1), payload]


def store(writer: JournalWriter, *payloads: bytes) -> list[Extent]:
    extents, offset = [], writer.end
    for payload in payloads:
        extents.append(Extent(writer.name, offset, len(payload), zlib.crc32(payload)))
        offset += HEADER_BYTES + len(payload)
    writer.append([buffer for payload in payloads for buffer in chunk(payload)])
    return extents


@pytest.fixture
def writer(tmp_path):
    journal = JournalWriter(tmp_path, uuid.uuid4(), 1)
    yield journal
    journal.close()


def test_what_is_appended_is_read_back(tmp_path, writer):
    extents = store(writer, b"one", b"", b"three" * 1000) + store(writer, b"four")
    with JournalReader(tmp_path) as reader:
        assert [reader.read(extent) for extent in extents] == [b"one", b"", b"three" * 1000, b"four"]
    assert writer.end == (tmp_path / writer.name).stat().st_size


def test_more_buffers_than_one_writev_takes(tmp_path, writer):
    payloads = [str(number).encode() for number in range(3000)]
    extents = store(writer, *payloads)
    with JournalReader(tmp_path) as reader:
        assert [reader.read(extent) for extent in extents] == payloads


def test_a_process_never_appends_to_a_file_that_is_there(tmp_path):
    process = uuid.uuid4()
    JournalWriter(tmp_path, process, 1).close()
    with pytest.raises(FileExistsError):
        JournalWriter(tmp_path, process, 1)


def test_a_changed_byte_is_noticed(tmp_path, writer):
    (extent,) = store(writer, b"payload")
    with (tmp_path / writer.name).open("r+b") as file:
        file.seek(extent.offset + HEADER_BYTES + 3)
        file.write(b"X")
    with JournalReader(tmp_path) as reader, pytest.raises(ChunkDamagedError):
        reader.read(extent)
    assert [record.intact for record in scan(tmp_path / writer.name)] == [False]


def test_a_missing_journal_is_a_damaged_chunk(tmp_path):
    with JournalReader(tmp_path) as reader, pytest.raises(ChunkDamagedError):
        reader.read(Extent("journals/gone.journal", 0, 1, 0))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8), st.data())
def test_a_torn_file_gives_its_whole_records_and_nothing_else(tmp_path, payloads, data):
    journal = JournalWriter(tmp_path, uuid.uuid4(), 1)
    extents = store(journal, *payloads)
    journal.close()
    path = tmp_path / journal.name
    cut = data.draw(st.integers(min_value=0, max_value=path.stat().st_size))
    os.truncate(path, cut)
    whole = [p for p, e in zip(payloads, extents, strict=True) if e.offset + HEADER_BYTES + len(p) <= cut]
    assert [record.payload for record in scan(path)] == whole


def test_a_scan_can_begin_at_any_record(tmp_path, writer):
    extents = store(writer, b"one", b"two", b"three")
    path = tmp_path / writer.name
    assert [record.payload for record in scan(path, extents[1].offset)] == [b"two", b"three"]
    assert resumes_at(path, writer.end) is None


@pytest.mark.parametrize("gap_bytes", [1, 63, 64, 200, (1 << 20) - 30, (1 << 20) + 5])
def test_behind_damage_the_next_header_is_found(tmp_path, writer, gap_bytes):
    """Wherever it lies in the blocks that are read, and whatever looks like its beginning."""
    store(writer, b"one")
    end = writer.end
    writer.append([(b"SSJ1" + b"." * gap_bytes)[:gap_bytes]])
    store(writer, b"two")
    at = resumes_at(tmp_path / writer.name, end)
    assert at == end + gap_bytes
    assert [record.payload for record in scan(tmp_path / writer.name, at)] == [b"two"]


def test_a_walk_yields_what_is_before_and_behind_damage(tmp_path, writer):
    _, damaged, _ = store(writer, b"one", b"two", b"three")
    path = tmp_path / writer.name
    with path.open("r+b") as file:
        file.seek(damaged.offset)
        file.write(bytes(len(MAGIC)))
    found = [entry if isinstance(entry, Damage) else entry.payload for entry in walk(path)]
    assert found == [b"one", Damage(damaged.offset), b"three"]


def test_a_record_that_is_cut_short_is_the_end_whatever_it_holds(tmp_path, writer):
    """A client may send what looks like records: behind a torn record nothing is looked for."""
    store(writer, b"one")
    end = writer.end
    forged = b"".join(chunk(b"forged"))
    writer.append([pack_header(RecordType.CHUNK, 0, 1000, SESSION.bytes), forged])
    assert resumes_at(tmp_path / writer.name, end) is None
    writer.append([bytes(1000)])
    assert resumes_at(tmp_path / writer.name, end) == end


def test_erasing_leaves_no_payload_and_a_file_that_can_be_scanned(tmp_path, writer):
    first, second, third = store(writer, b"secret-one", b"keep", b"secret-two")
    gone = Extent("journals/gone.journal", 0, 1, 0)
    assert erase(tmp_path, [third, first, gone], own={writer.name}) == set()
    assert b"secret" not in (tmp_path / writer.name).read_bytes()
    records = list(scan(tmp_path / writer.name))
    assert [record.header.erased for record in records] == [True, False, True]
    assert all(record.intact for record in records)
    with JournalReader(tmp_path) as reader:
        assert reader.read(second) == b"keep"


def test_a_write_that_does_not_fit_is_an_error_and_the_end_stays(tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: the kernel writes a part and reports the short count."""
    script = f"""
import resource, signal, uuid, pathlib
from audio.journal.files import JournalWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = JournalWriter(pathlib.Path({str(tmp_path)!r}), uuid.uuid4(), 1)
writer.append([b"x" * 1000])
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, {resource.RLIM_INFINITY}))
try:
    writer.append([b"y" * 1000])
except OSError as error:
    print(error.errno, writer.end)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(errno.EFBIG), "1000"]
    (path,) = tmp_path.rglob("*.journal")
    assert path.read_bytes() == b"x" * 1000


def descriptors() -> list[str]:
    """The files that this process has open, also those that are deleted."""
    handles = Path("/proc/self/fd")
    return [os.readlink(handle) for handle in handles.iterdir() if handle.is_symlink()]


@pytest.mark.parametrize("step", ["fcntl.flock", "os.fsync"])
def test_a_journal_that_can_not_be_made_leaves_no_descriptor_and_no_file(tmp_path, monkeypatch, step):
    def reject(*_):
        raise OSError(errno.EIO, "Input/output error")

    for number in range(3):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
            patch.setattr(f"audio.journal.files.{step}", reject)
            JournalWriter(tmp_path, uuid.uuid4(), number)
    assert [name for name in descriptors() if name.startswith(str(tmp_path))] == []
    assert list(tmp_path.rglob("*.journal")) == []
