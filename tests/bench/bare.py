"""The yardstick: a bare ASGI application that answers every message with an acknowledgement and stores nothing."""

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope

_ANSWER = (
    '{{"message": "Chunk processed successfully", "session_id": "00000000-0000-0000-0000-000000000000",'
    ' "chunk_count": {}, "status": "active"}}'
)


async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Accepts, greets, and acknowledges every message with its number."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": None, "headers": ()})
    count = 0
    while True:
        await send({"type": "websocket.send", "text": _ANSWER.format(count), "bytes": None})
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        count += 1
