"""`manage.py reindex`: as a command, and after the disaster that it is for."""

import asyncio
import json
import random
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command

from audio.media import ffmpeg
from audio.models import AudioChunk, AudioSession
from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.recorded import corrupt
from tests.server import Server
from tests.services import REPOSITORY
from tests.sound import speech, wav_bytes

PCM = [bytes([number]) * 320 for number in range(1, 6)]


@pytest.mark.database
def test_it_tells_what_it_does_and_would_do(recorded, capsys):
    recorded.session(*PCM)
    recorded.stop()
    recorded.lose_the_database()
    call_command("reindex", "--dry-run")
    assert capsys.readouterr().out == "1 session and 5 chunks would be brought back from 1 journal.\n"
    assert AudioSession.objects.count() == 0
    call_command("reindex")
    assert capsys.readouterr().out == "1 session and 5 chunks brought back from 1 journal.\n"
    call_command("reindex", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["dry_run"], told["sessions"], told["known_sessions"], told["problems"]) == (False, 0, 1, [])


@pytest.mark.database
def test_it_says_what_is_uncertain_and_what_is_damaged(recorded, capsys):
    recorded.session(*PCM)
    row = AudioChunk.objects.select_related("journal").first()
    recorded.processes.pop().kill()
    recorded.lose_the_database()
    corrupt(recorded.root / row.journal.name, row.offset + 64)
    with pytest.raises(CommandError, match="1 problem in the journals") as caught:
        call_command("reindex")
    assert caught.value.returncode == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{row.journal.name}: chunk_damaged: A chunk fails its CRC-32.",
        "1 session and 5 chunks brought back from 1 journal.",
        "1 session of them uncertain, by 1 chunk that no commit record names.",
    ]


@pytest.mark.database
def test_a_server_that_runs_is_left_alone(recorded):
    with pytest.raises(CommandError, match="A server is running"):
        call_command("reindex")
    call_command("reindex", "--dry-run")


def manage(server: Server, *arguments: str) -> str:
    command = [sys.executable, str(REPOSITORY / "manage.py"), *arguments]
    done = subprocess.run(command, env=server.environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def encoded(*arguments: str) -> bytes:
    command = [str(ffmpeg.find()), "-loglevel", "error", "-f", "wav", "-i", "pipe:0", *arguments, "pipe:1"]
    return subprocess.run(command, input=wav_bytes(speech(2), 16000), capture_output=True, check=True).stdout


class Clients:
    """Sessions of several kinds, and the chunks that were acknowledged, in the order of their counts."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, list[bytes]] = {}
        self._noise = random.Random(1)

    async def store(self, client, *payloads: bytes) -> None:
        known = self.acknowledged.setdefault(client.session_id, [])
        for payload in payloads:
            (count,) = await client.store(payload)
            assert count == len(known) + 1
            known.append(payload)

    async def record(self, server: Server) -> list[str]:
        """PCM from two named sources and one without a name, a FLAC stream, and MP3 files."""
        flac, mp3 = encoded("-f", "flac"), encoded("-f", "mp3")
        async with recorder(server.ws_url, source="one") as one:
            async with recorder(server.ws_url, one.session_id, source="two") as two:
                for _ in range(10):
                    await self.store(one, self._noise.randbytes(3200))
                    await self.store(two, self._noise.randbytes(3201))
            async with recorder(server.ws_url, one.session_id) as three:
                await self.store(three, self._noise.randbytes(1600))
        async with recorder(server.ws_url, format="flac", source="one") as stream:
            await self.store(stream, *[flac[at : at + 3000] for at in range(0, len(flac), 3000)])
        async with recorder(server.ws_url, format="mp3", chunks="files", user_id="ann") as files:
            await self.store(files, mp3, mp3)
            await files.close_session()
        return [one.session_id, stream.session_id, files.session_id]

    async def resume(self, server: Server, session_id: str) -> None:
        async with recorder(server.ws_url, session_id, source="one") as again:
            for _ in range(5):
                await self.store(again, self._noise.randbytes(3200))


def lose_the_database(server: Server) -> None:
    for path in server.folder.glob("db.sqlite3*"):
        path.unlink()


async def test_the_database_is_lost_and_every_acknowledged_chunk_comes_back(run_server: RunServer):
    server = run_server(DISCONNECT_GRACE_SECONDS="600")
    clients = Clients()
    pcm, flac, mp3 = await clients.record(server)
    before = await asyncio.to_thread(Rest(server.url).download, mp3)
    await asyncio.to_thread(server.kill_all)
    server.start()
    await clients.resume(server, pcm)
    await asyncio.to_thread(server.kill_all)
    lose_the_database(server)
    await asyncio.to_thread(manage, server, "migrate", "--verbosity", "0")
    told = json.loads(await asyncio.to_thread(manage, server, "reindex", "--json"))
    chunk_count = sum(map(len, clients.acknowledged.values()))
    assert (told["sessions"], told["chunks"], told["journals"]) == (3, chunk_count, 2)
    server.start()
    rest = Rest(server.url)
    for session_id, payloads in clients.acknowledged.items():
        shown = rest.finished(session_id)
        assert (shown["total_chunks"], shown["status"]) == (len(payloads), "completed")
        for sequence, payload in enumerate(payloads, start=1):
            assert rest.http.get(f"/api/audio/sessions/{session_id}/chunks/{sequence}").content == payload
    assert rest.session(mp3)["user_id"] == "ann"
    assert rest.download(mp3) == before
    # Behind STREAMINFO, which gets the total that the encoder did not know.
    assert rest.download(flac)[42:] == b"".join(clients.acknowledged[flac])[42:]
    # The last chunk of each process was acknowledged, and its commit record was still to be written.
    assert rest.session(pcm)["recovered"] == "uncertain"
    assert "No problems found" in await asyncio.to_thread(manage, server, "verify", "--all", "--journals", "--orphans")
