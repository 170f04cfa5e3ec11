"""No event is lost when every process is killed between the change of a state and the delivery."""

import asyncio

import pytest

from tests.client import Rest, recorder
from tests.server import eventually
from tests.sound import speech
from tests.webhooks.receiver import answer

pytestmark = pytest.mark.services


async def record(url: str) -> str:
    async with recorder(url) as connection:
        await connection.store(speech(1).tobytes())
        await connection.close_session()
    return connection.session_id


def test_events_outlive_all_processes_and_the_queue(make_server, make_receiver, any_database_url):
    """The job worker delivers. It is stopped first, so that the change is committed and nothing was sent."""
    environment = {"DATABASE_URL": any_database_url} if any_database_url else {}
    server = make_server(WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8", **environment)
    server.start()
    receiver = make_receiver(answer(500))
    hook = Rest(server.url).http.post("/api/webhooks", json={"url": receiver.url}).json()
    receiver.secrets.append(hook["secret"])
    server.child("jobs").suspend()
    session_id = asyncio.run(record(server.ws_url))
    server.kill_all()
    assert receiver.received == []
    server.restart()
    wanted = ["session.opened", "session.closed", "recording.ready"]

    def arrived() -> dict[str, set[str]]:
        taken: dict[str, set[str]] = {}
        for message_id, event, _ in list(receiver.received):
            if message_id in receiver.taken:
                taken.setdefault(event["type"], set()).add(message_id)
        return taken

    eventually(lambda: set(arrived()) == set(wanted))
    assert all(len(ids) == 1 for ids in arrived().values())
    assert {event["data"]["session_id"] for _, event, _ in receiver.received} == {session_id}
    assert receiver.errors == []
    # A URL may contain a secret of its receiver.
    assert receiver.url not in server.read_log()
