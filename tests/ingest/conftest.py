"""A started ingest, and connections to it, on the test's own event loop with a real database and a real Redis."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from audio.ingest import executor, sessions
from audio.ingest.process import Ingest
from audio.wire.parameters import ConnectionRequest
from tests.ingest.live import Client


@pytest.fixture
def closed_databases(monkeypatch):
    """Closes the executor's connections to the database after each use: in the product they end with the process."""
    real = executor._with_database

    def closing(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return real(function, *arguments)
        finally:
            connections.close_all()

    monkeypatch.setattr(executor, "_with_database", closing)


@pytest.fixture
async def ingest(settings, tmp_path, closed_databases):
    """A started ingest that beats ten times a second."""
    settings.AUDIO_STORAGE_PATH = tmp_path / "audio"
    settings.HEARTBEAT_SECONDS = 0.1
    settings.COMMIT_GATHER_MS = 0
    made = Ingest()
    await made.started()
    yield made
    if not made.draining:
        await made.drain()


@pytest.fixture
def connect(ingest):
    """Opens a connection of this process: `await connect(session_id, source="mic")`."""

    async def open_one(session_id: uuid.UUID | None = None, source: str | None = None) -> Client:
        request = ConnectionRequest({}, source=source)
        opened = await ingest.run(sessions.open_connection, request, session_id, ingest.process_id)
        client = Client(ingest, opened)
        ingest.add(client)
        return client

    return open_one
