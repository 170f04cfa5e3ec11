"""PURE. The state machine of a connection; this docstring is its specification.

The machine knows no socket, no file and no clock. What arrives is put in, what is to be done comes out, and
what is to be sent is taken out with `outgoing`:

1. Every binary message is answered exactly once, every text message at least once, and answers leave in the
   order of the messages they answer. An answer that waits for a commit holds back those behind it.
2. A chunk is acknowledged only by `stored`, which the I/O side calls after the commit: there is no other way
   to an acknowledgement of a message that holds bytes. That is "acknowledged means durable".
3. An empty binary message stores nothing and is answered with the count as it is.
4. `close_session`, `pause` and `resume` act on the session, after everything that came before them is settled:
   the I/O side waits until `unsettled` is 0, acts, and reports with `closed`, `paused` or `resumed`.
5. An error with a close code ends the connection: its text is sent in its turn, then the close. Nothing that
   arrives afterwards is looked at, and nothing more is stored. What is already with the committer is still
   answered before the end is sent.
6. Besides the answers there are notices, which answer nothing: `warn` says that a part of the recording could not be
   made. A notice has the same four keys first, then `event`, and never a key `error`, which is that of a refusal.

    OPEN -- closed / fail / end --> ENDING -- the last answer has left --> ENDED
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from audio.errors import AudioError
from audio.wire import messages
from audio.wire.messages import AcknowledgementTemplate, Action

NORMAL_CLOSURE = 1000
SERVICE_RESTART = 1012


class State(Enum):
    """Where a connection is in its life."""

    OPEN = "open"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is to be closed with this code (RFC 6455 section 7.4)."""

    code: int


@dataclass(frozen=True, slots=True)
class _Say:
    message: str
    more: dict[str, Any]


class _Unsettled(Enum):
    CHUNK = 0


_Answer = AudioError | _Say | Close | _Unsettled


class Connection:
    """One connection of a session. `chunk_count` is the session's count as this connection knows it."""

    def __init__(self, session_id: str, chunk_count: int = 0, status: str = "active") -> None:
        self.session_id = session_id
        self.chunk_count = chunk_count
        self.status = status
        self.state = State.OPEN
        self._acknowledgement = AcknowledgementTemplate(session_id, "active")
        self._answers: deque[_Answer] = deque()
        self._outcomes: deque[int | AudioError] = deque()
        self._unsettled = 0

    @property
    def unsettled(self) -> int:
        """How many chunks are with the committer."""
        return self._unsettled

    @property
    def backlog(self) -> int:
        """How many answers have not left yet."""
        return len(self._answers)

    def greet(self, message: str, **more: Any) -> None:
        """Queues the greeting."""
        self._answers.append(_Say(message, more))

    def receive_binary(self, size_bytes: int) -> bool:
        """Takes the size of a binary message; returns whether its bytes are to be stored."""
        if self.state is not State.OPEN:
            return False
        if not size_bytes:
            self._answers.append(_Say(messages.STORED, {}))
            return False
        self._answers.append(_Unsettled.CHUNK)
        self._unsettled += 1
        return True

    def receive_text(self, text: str) -> Action | None:
        """Takes a text message; returns the action that the I/O side has to take, if any."""
        if self.state is not State.OPEN:
            return None
        try:
            action = messages.parse_text(text)
        except AudioError as error:
            self._answers.append(error)
            return None
        if action is not Action.PING:
            return action
        self._answers.append(_Say(messages.PONG, {}))
        return None

    def stored(self, sequence: int) -> None:
        """The oldest unsettled chunk is durable, as number `sequence` of its session."""
        self._outcomes.append(sequence)
        self._unsettled -= 1

    def refused(self, error: AudioError) -> None:
        """The oldest unsettled chunk was not stored; a fatal error ends the connection."""
        self._outcomes.append(error)
        self._unsettled -= 1
        self._end_after(error)

    def reject(self, error: AudioError) -> None:
        """A message is refused before anything was stored of it; a fatal error ends the connection."""
        if self.state is State.OPEN:
            self._answers.append(error)
            self._end_after(error)

    fail = reject

    def paused(self) -> None:
        """The session is paused."""
        self._turn("paused", messages.PAUSED_NOW)

    def resumed(self) -> None:
        """The session goes on."""
        self._turn("active", messages.RESUMED_NOW)

    def closed(self) -> None:
        """The session is closed: say so and end with 1000."""
        if self.state is State.OPEN:
            self._turn("completed", messages.CLOSED)
            self.end(NORMAL_CLOSURE)

    def warn(self, warning: dict[str, Any]) -> None:
        """Says that something that was sent can't be in the recording as it came: its code, its detail, its place."""
        if self.state is State.OPEN:
            self._answers.append(_Say(messages.PART_NOT_MADE, {"event": "error", **warning}))

    def end(self, code: int) -> None:
        """Ends the connection with this close code, after what is unsettled has been answered."""
        if self.state is State.OPEN:
            self.state = State.ENDING
            self._answers.append(Close(code))

    def outgoing(self) -> Iterator[str | Close]:
        """Gives what can be sent now, in order; each item is gone from the queue once it is given."""
        while self._answers and self.state is not State.ENDED:
            answer = self._answers[0]
            if answer is _Unsettled.CHUNK:
                if not self._outcomes:
                    return
                self._answers.popleft()
                yield from self._settle(self._outcomes.popleft())
            else:
                self._answers.popleft()
                yield from self._say(answer)

    def _settle(self, outcome: int | AudioError) -> Iterator[str | Close]:
        if isinstance(outcome, int):
            self.chunk_count = max(self.chunk_count, outcome)
            yield self._acknowledgement.fill(outcome)
        else:
            yield from self._say(outcome)

    def _say(self, answer: "AudioError | _Say | Close | _Unsettled") -> Iterator[str | Close]:
        if isinstance(answer, _Say):
            yield messages.answer(answer.message, self.session_id, self.chunk_count, self.status, **answer.more)
        elif isinstance(answer, AudioError):
            yield messages.refusal(answer, self.session_id, self.chunk_count, self.status)
            if answer.close_code is not None:
                yield self._ended(answer.close_code)
        elif isinstance(answer, Close):
            yield self._ended(answer.code)

    def _ended(self, code: int) -> Close:
        self.state = State.ENDED
        self._answers.clear()
        return Close(code)

    def _turn(self, status: str, message: str) -> None:
        self.status = status
        self._answers.append(_Say(message, {}))

    def _end_after(self, error: AudioError) -> None:
        if error.close_code is not None and self.state is State.OPEN:
            self.state = State.ENDING
