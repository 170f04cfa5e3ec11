"""Record a WAV file, and save the recording beside it.

    python record.py SOUND.wav [HOST:PORT]

The client names its source, so it survives a broken connection and a server that restarts: it connects again, skips
the chunks that the server has stored, and sends the rest. It needs the package `websockets`.

If SERCUESCRIBE_API_KEY is set, the key is sent. It needs the scopes `record` and `read`.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

SERVER = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:8000"
KEY = os.environ.get("SERCUESCRIBE_API_KEY")
HEADERS = {"Authorization": f"Bearer {KEY}"} if KEY else {}
CHUNK_BYTES = 4096


async def record(parameters: dict[str, str], chunks: list[bytes]) -> str:
    """Send the chunks over as many connections as it takes, close the session, and return its id."""
    session_id = ""
    while True:
        try:
            url = f"ws://{SERVER}/api/ws/audio/{session_id}?{urlencode(parameters)}"
            async with connect(url, additional_headers=HEADERS) as socket:
                greeting = json.loads(await socket.recv())
                if session_id and greeting.get("code") == "session_closed":
                    return session_id
                session_id = str(checked(greeting)["session_id"])
                await send_and_close(socket, chunks[greeting["source_chunk_count"] :])
                return session_id
        except (OSError, WebSocketException) as error:
            if isinstance(error, InvalidStatus) and error.response.status_code < 500:
                raise SystemExit(f"{SERVER} rejects this client: {error}") from None
            print(f"Connecting again: {error}", file=sys.stderr)
            await asyncio.sleep(1)


async def send_and_close(socket: ClientConnection, chunks: list[bytes]) -> None:
    """Send the chunks without waiting for each answer, and read the answers until the session is closed."""
    sending = asyncio.create_task(send(socket, chunks))
    try:
        while checked(json.loads(await socket.recv()))["status"] != "completed":
            pass
    finally:
        sending.cancel()


async def send(socket: ClientConnection, chunks: list[bytes]) -> None:
    """Send the chunks, then ask the server to close the session."""
    for chunk in chunks:
        await socket.send(chunk)
    await socket.send(json.dumps({"type": "control", "action": "close_session"}))


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is not an error. Connect again after a temporary error; exit after any other."""
    if "error" not in answer:
        return answer
    if answer["retryable"]:
        raise ConnectionError(answer["error"])
    raise SystemExit(f"{answer['error']} ({answer['code']})")


def wait_until_ready(session_id: str, chunk_count: int) -> str:
    """Wait for the recording, and return its URL."""
    while True:
        with urlopen(Request(f"http://{SERVER}/api/audio/sessions/{session_id}", headers=HEADERS)) as answer:
            session: dict[str, Any] = json.load(answer)
        if session["total_chunks"] != chunk_count:
            raise SystemExit("The session was closed before all chunks were sent.")
        if session["recording"]["state"] == "failed":
            raise SystemExit(session["recording"]["error"]["detail"])
        if session["recording"]["state"] == "ready":
            return str(session["recording"]["url"])
        time.sleep(0.2)


path = Path(sys.argv[1])
# The sample rate and the channels are read from the header of the file.
parameters = {"format": "wav", "chunks": "stream", "source": "file"}
data = path.read_bytes()
chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
session_id = asyncio.run(record(parameters, chunks))
with urlopen(Request(wait_until_ready(session_id, len(chunks)), headers=HEADERS)) as recording:
    path.with_suffix(".recording.wav").write_bytes(recording.read())
print(session_id)
