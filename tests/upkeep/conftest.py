"""Sessions as an ingest process leaves them: several in one journal, with their rows."""

import os
import socket
from pathlib import Path

import pytest

from audio.ingest import sessions
from audio.ingest.committer import Committer, Delivery
from audio.ingest.pending import Append
from audio.ingest.types import Outcome, Producer
from audio.models import IngestProcess
from audio.wire.parameters import ConnectionRequest
from tests.server import eventually


class Recorded:
    """Sessions whose chunks a committer stores, all in one journal."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.delivered: list[Delivery] = []
        self.process_id = IngestProcess.objects.create(host=socket.gethostname(), pid=os.getpid()).pk
        self.committer = Committer(root, self.process_id, self.delivered.extend, 0.0, 1 << 24)
        self.committer.start()

    def open(self) -> Producer:
        return sessions.open_connection(ConnectionRequest({}), None, self.process_id).producer

    def store(self, producer: Producer, *payloads: bytes) -> list[Outcome]:
        before = len(self.delivered)
        for payload in payloads:
            self.committer.submit(Append(producer, payload, 0, None))
        eventually(lambda: len(self.delivered) == before + len(payloads))
        return [outcome for _, outcome in self.delivered[before:]]

    @property
    def journal(self) -> Path:
        (path,) = self.root.glob("journals/*/*.journal")
        return path


@pytest.fixture
def recorded(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path / "audio"
    made = Recorded(settings.AUDIO_STORAGE_PATH)
    yield made
    made.committer.stop()
