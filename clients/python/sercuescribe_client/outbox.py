"""The messages of a recorder, kept in order until the server has answered them. This module does no I/O.

The server answers in the order of the messages. A message that has no answer when the connection breaks is sent again,
unless the next greeting shows that the server has it: `source_chunk_count` counts the stored chunks, and whatever was
sent before a stored chunk was processed too.
"""

import asyncio
import json
from collections import deque
from typing import Any

from sercuescribe_client.errors import ScribeError
from sercuescribe_client.spool import Stored


class ChunkItem:
    """A chunk that is not acknowledged yet."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self.size_bytes = stored.size_bytes

    def message(self) -> bytes:
        """Return what is sent."""
        return self._stored.read()

    def finish(self) -> None:
        """Forget the chunk, because the server has it."""
        self._stored.discard()


class ControlItem:
    """A control message or a marker, with the answer that somebody waits for."""

    size_bytes = 0

    def __init__(self, body: dict[str, Any], answer: "asyncio.Future[None]") -> None:
        self._text = json.dumps(body)
        self.answer = answer
        self.is_marker = body["type"] == "marker"
        self.is_close = body.get("action") == "close_session"

    def message(self) -> str:
        """Return what is sent."""
        return self._text

    def finish(self) -> None:
        """Tell the waiting caller that the server has answered."""
        if not self.answer.done():
            self.answer.set_result(None)

    def fail(self, error: Exception) -> None:
        """Tell the waiting caller that the server has rejected the message."""
        if not self.answer.done():
            self.answer.set_exception(error)


Item = ChunkItem | ControlItem


class Outbox:
    """The items without an answer, the oldest first. Some of them are already sent on the current connection."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._sent = 0
        self.acknowledged_chunk_count = 0
        self.acknowledged_bytes = 0
        self.pending_chunk_count = 0
        self.pending_bytes = 0

    def begin(self, stored_chunk_count: int) -> None:
        """Continue a source whose first chunks another client has sent."""
        self.acknowledged_chunk_count = stored_chunk_count

    def add(self, item: Item) -> None:
        """Add an item after all others."""
        self._items.append(item)
        if isinstance(item, ChunkItem):
            self.pending_chunk_count += 1
            self.pending_bytes += item.size_bytes

    @property
    def head(self) -> Item | None:
        """The oldest item that was sent; None if everything that was sent is answered."""
        return self._items[0] if self._sent else None

    def take(self) -> Item | None:
        """Return the next item to send, which is marked as sent; None if there is none."""
        if self._sent == len(self._items):
            return None
        self._sent += 1
        return self._items[self._sent - 1]

    def answered(self) -> None:
        """Remove the oldest item, because the server has done it.

        Raises:
            ScribeError: Nothing was sent.
        """
        if not self._sent:
            raise ScribeError("The server answered a message that was not sent.")
        self._sent -= 1
        self._finish()

    def remove_head(self) -> Item:
        """Remove and return the oldest item, which the server has rejected."""
        self._sent -= 1
        return self._items.popleft()

    def reconnect(self, stored_chunk_count: int) -> None:
        """Remove the items that the server has stored. All others are sent again.

        Raises:
            ScribeError: The server has another number of chunks than this client can have sent.
        """
        unknown = stored_chunk_count - self.acknowledged_chunk_count
        if not 0 <= unknown <= self.pending_chunk_count:
            raise ScribeError(
                f"The server has {stored_chunk_count} chunks of this source, but {self.acknowledged_chunk_count} of "
                f"this client were acknowledged and {self.pending_chunk_count} wait. Another client uses the source, "
                "or the server lost data."
            )
        self._sent = 0
        while self.acknowledged_chunk_count < stored_chunk_count:
            self._finish()

    def _finish(self) -> None:
        item = self._items.popleft()
        if isinstance(item, ChunkItem):
            self.acknowledged_chunk_count += 1
            self.acknowledged_bytes += item.size_bytes
            self.pending_chunk_count -= 1
            self.pending_bytes -= item.size_bytes
        item.finish()

    def fail(self, error: Exception, *, but_close: bool = False) -> None:
        """Tell all waiting callers that nothing more will be sent, perhaps except those that close the session."""
        for item in self._items:
            if isinstance(item, ControlItem) and not (but_close and item.is_close):
                item.fail(error)
