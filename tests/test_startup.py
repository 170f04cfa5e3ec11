"""The modules that the processes of a server load at their start, and those that they load when they use them."""

import itertools
import re

import httpx
import pytest

from tests.client import Rest, recorder
from tests.server import eventually
from tests.sound import speech, wav_bytes

RATE_HZ = 16000
# Each takes memory, and time at every start, in a process that may never use it.
DEFERRED = ("numpy", "soxr", "boto3", "drf_spectacular.generators")


@pytest.fixture
def server(run_server):
    """A server whose processes write each module that they load to its log."""
    return run_server(PYTHONPROFILEIMPORTTIME="1")


def loaded(server) -> set[str]:
    """The modules that the processes have loaded, with their packages: those loaded by `import_module` are not told."""
    told = re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", server.read_log(), re.MULTILINE)
    return {name for each in set(told) for name in itertools.accumulate(each.split("."), "{}.{}".format)}


def status(url: str) -> int:
    return httpx.get(url, timeout=60).status_code


def test_a_start_loads_nothing_that_is_used_later(server):
    assert "audio.consumers" in loaded(server)
    assert "audio.api.views" in loaded(server)
    assert loaded(server).isdisjoint(DEFERRED)


async def test_what_was_not_loaded_is_there_when_it_is_used(server):
    async with recorder(server.ws_url, format="wav", sample_rate=RATE_HZ) as client:
        await client.store(wav_bytes(speech(1, RATE_HZ), RATE_HZ))
        await client.close_session()
    Rest(server.url).finished(client.session_id)
    eventually(lambda: status(f"{server.url}/api/audio/sessions/{client.session_id}/waveform?points=10") == 200)
    assert status(f"{server.url}/api/schema") == 200
    assert {"numpy", "drf_spectacular.generators"} <= loaded(server)
