"""Sessions as a server leaves them: chunks that real committers stored, from named sources and others."""

import os
import shutil
import socket
import time
import uuid
from pathlib import Path

from audio.assembly.concatenate import concatenate
from audio.ingest import sessions
from audio.ingest.commit import RowWriter
from audio.ingest.committer import Committer, Delivery
from audio.ingest.pending import Append
from audio.ingest.types import Accepted, Outcome, Producer
from audio.journal.files import Extent, JournalReader
from audio.models import AudioChunk, AudioSession, IngestProcess, JournalFile, Recording
from audio.wire.parameters import ConnectionRequest
from tests.server import eventually


class Process:
    """What takes chunks in one web process, with a journal of its own."""

    def __init__(self, root: Path) -> None:
        self._delivered: list[Delivery] = []
        self.id = IngestProcess.objects.create(host=socket.gethostname(), pid=os.getpid()).pk
        self._committer = Committer(root, self.id, self._delivered.extend, 0.0, 1 << 24)
        self._committer.start()

    def store(self, producer: Producer, *payloads: bytes) -> list[Outcome]:
        before = len(self._delivered)
        for payload in payloads:
            self._committer.submit(Append(producer, payload, time.time_ns() // 1000, None))
        eventually(lambda: len(self._delivered) == before + len(payloads))
        return [outcome for _, outcome in self._delivered[before:]]

    @property
    def rows(self) -> RowWriter:
        return self._committer._rows

    def stop(self) -> None:
        """Ends it in good order: the journal says everything."""
        self._committer.stop()
        IngestProcess.objects.filter(pk=self.id).delete()

    def kill(self) -> None:
        """Ends it before it writes what there is to say of the last batch."""
        self._committer._abandon_journal()
        self.stop()


class Recorded:
    """A storage, the processes that write to it, and what clients were told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = [Process(root)]

    def another_process(self) -> Process:
        self.processes.append(Process(self.root))
        return self.processes[-1]

    def open(self, source: str | None = None, **parameters) -> Producer:
        request = ConnectionRequest(parameters, source=source, user_id="somebody")
        return sessions.open_connection(request, None, self.processes[0].id).producer

    def resume(self, producer: Producer, source: str | None = None) -> Producer:
        request = ConnectionRequest({}, source=source)
        return sessions.open_connection(request, producer.session_id, self.processes[-1].id).producer

    def store(self, producer: Producer, *payloads: bytes) -> None:
        assert all(isinstance(outcome, Accepted) for outcome in self.processes[-1].store(producer, *payloads))

    def session(self, *payloads: bytes, source: str | None = None, **parameters) -> uuid.UUID:
        """Records a session of these chunks, one at a time, closes it and makes its recording."""
        producer = self.open(source, **parameters)
        for payload in payloads:
            self.store(producer, payload)
        return self.close(producer)

    def close(self, producer: Producer) -> uuid.UUID:
        sessions.close_session(producer.session_id)
        concatenate(producer.session_id)
        return producer.session_id

    def recording(self, session_id: uuid.UUID) -> Recording:
        return Recording.objects.get(pk=session_id)

    def path(self, session_id: uuid.UUID) -> Path:
        return self.root / self.recording(session_id).file_name

    def stop(self) -> None:
        for process in self.processes:
            process.stop()
        self.processes = []

    def payloads(self, session_id: uuid.UUID) -> list[bytes]:
        rows = AudioChunk.objects.filter(session=session_id).order_by("sequence")
        with JournalReader(self.root) as reader:
            extents = rows.values_list("journal__name", "offset", "size_bytes", "crc32")
            return [reader.read(Extent(*extent)) for extent in extents]

    def lose_the_database(self) -> None:
        AudioSession.objects.all().delete()
        AudioChunk.objects.all().delete()
        JournalFile.objects.all().delete()
        IngestProcess.objects.all().delete()

    def lose_the_recordings(self) -> None:
        shutil.rmtree(self.root / "sessions")


def corrupt(path: Path, offset: int) -> None:
    """Turns one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
