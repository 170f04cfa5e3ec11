"""PURE. The state machine of a connection. This docstring specifies its answers and their order.

The machine uses no socket, file or clock. Its methods take what has arrived and return what is to be done; `outgoing`
returns what is to be sent:

1. Every binary message is answered exactly once, and every text message at least once. Answers leave in the order of
   the messages that they answer. An answer that waits for a commit delays the answers after it.
2. Only `deliver` acknowledges a chunk. The I/O side calls it after the commit, with the sequence of the chunk. So an
   acknowledged chunk is durable.
3. An empty binary message stores nothing and is answered with the current count.
4. `close_session`, `pause`, `resume` and markers act on the session after every chunk before them has its outcome. The
   I/O side waits until `in_flight` is 0, acts, and reports with `closed`, `paused`, `resumed` or `marked`.
5. An error with a close code ends the connection: its text is sent in its turn, and then the close. Later messages are
   ignored, and nothing more is stored. Chunks that the committer already has are answered before the end is sent.
6. There are also notices, which answer no message: `warn` says that a part of the recording could not be made. A notice
   has the same four keys first and then `event`. It never has the key `error`, which only rejections have.

    OPEN -- closed / reject / end --> ENDING -- the last answer has left --> ENDED

The rest of a connection's specification is elsewhere:

- the names and values of the query: `audio.wire.parameters`
- the texts of the messages, and the control messages: `audio.wire.messages`
- the rejection of audio because of its header or its format: `audio.admission`
- opening and resuming a session, and the limits of both: `audio.ingest.sessions`
- the rejection of chunks of paused, closed and deleted sessions, and of superseded sources: `audio.ingest.commit`
- reading with backpressure, the idle timeout, and the effect of a pause: `audio.consumers`
- backpressure of the whole process, and the drain before it stops: `audio.ingest.connections`, `audio.ingest.process`
- codes, sentences and close codes of all errors: `audio.errors`
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from audio.errors import AudioError
from audio.wire import messages
from audio.wire.messages import AcknowledgementTemplate, Action, MarkerRequest

NORMAL_CLOSURE = 1000
SERVICE_RESTART = 1012


class State(Enum):
    """The state of a connection."""

    OPEN = "open"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is to be closed with this code (RFC 6455 section 7.4)."""

    code: int


@dataclass(frozen=True, slots=True)
class _Text:
    message: str
    more: dict[str, Any]


class _InFlight(Enum):
    CHUNK = 0


_Answer = AudioError | _Text | Close | _InFlight


class Connection:
    """One connection of a session. `chunk_count` is the last count of the session that this connection knows."""

    def __init__(self, session_id: str, chunk_count: int = 0, status: str = "active") -> None:
        self.session_id = session_id
        self.chunk_count = chunk_count
        self.status = status
        self.state = State.OPEN
        self._acknowledgement = AcknowledgementTemplate(session_id, "active")
        self._answers: deque[_Answer] = deque()
        self._outcomes: deque[int | AudioError] = deque()
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """The number of chunks that the committer has not committed yet."""
        return self._in_flight

    @property
    def backlog(self) -> int:
        """The number of answers that have not been sent yet."""
        return len(self._answers)

    def greet(self, message: str, **more: Any) -> None:
        """Queue the greeting."""
        self._answers.append(_Text(message, more))

    def receive_binary(self, size_bytes: int) -> bool:
        """Note a binary message of this size, and return whether its bytes are to be stored."""
        if self.state is not State.OPEN:
            return False
        if not size_bytes:
            self._answers.append(_Text(messages.STORED, {}))
            return False
        self._answers.append(_InFlight.CHUNK)
        self._in_flight += 1
        return True

    def receive_text(self, text: str) -> Action | MarkerRequest | None:
        """Note a text message, and return the action for the I/O side, if there is one."""
        if self.state is not State.OPEN:
            return None
        try:
            action = messages.parse_text(text)
        except AudioError as error:
            self._answers.append(error)
            return None
        if action is not Action.PING:
            return action
        self._answers.append(_Text(messages.PONG, {}))
        return None

    def deliver(self, outcome: int | AudioError) -> None:
        """Note the outcome of the oldest chunk in flight.

        Args:
            outcome: Its sequence if it is durable, otherwise its rejection. A fatal rejection ends the connection.
        """
        self._outcomes.append(outcome)
        self._in_flight -= 1
        if isinstance(outcome, AudioError):
            self._end_after(outcome)

    def reject(self, error: AudioError) -> None:
        """Answer a message or the connection with an error. A fatal error ends the connection."""
        if self.state is State.OPEN:
            self._answers.append(error)
            self._end_after(error)

    def paused(self) -> None:
        """Queue the answer that the session is paused."""
        self._turn("paused", messages.PAUSED_NOW)

    def resumed(self) -> None:
        """Queue the answer that the session is resumed."""
        self._turn("active", messages.RESUMED_NOW)

    def marked(self, marker_id: str, sequence: int) -> None:
        """Queue the answer that a marker is stored after the chunk with this sequence."""
        self._answers.append(_Text(messages.MARKED, {"marker_id": marker_id, "sequence": sequence}))

    def closed(self) -> None:
        """Queue the answer that the session is closed, and end with 1000."""
        if self.state is State.OPEN:
            self._turn("completed", messages.CLOSED)
            self.end(NORMAL_CLOSURE)

    def warn(self, warning: dict[str, Any]) -> None:
        """Queue the notice that chunks cannot be in the recording: its code, its detail, and the chunks."""
        if self.state is State.OPEN:
            self._answers.append(_Text(messages.PART_NOT_MADE, {"event": "error", **warning}))

    def end(self, code: int) -> None:
        """End the connection with this close code, after all chunks in flight have been answered."""
        if self.state is State.OPEN:
            self.state = State.ENDING
            self._answers.append(Close(code))

    def outgoing(self) -> Iterator[str | Close]:
        """Yield the items that can be sent now, in order. Each is removed from the queue."""
        while self._answers and self.state is not State.ENDED:
            answer = self._answers[0]
            if answer is _InFlight.CHUNK:
                if not self._outcomes:
                    return
                self._answers.popleft()
                yield from self._answer_chunk(self._outcomes.popleft())
            else:
                self._answers.popleft()
                yield from self._say(answer)

    def acknowledgement_frames(self) -> list[bytes]:
        """Remove and return the acknowledgements that can be sent now as frames, up to the first other answer.

        A server that can send prepared frames (`audio.wire.frames`) needs only this method for nearly all answers.
        """
        answers, outcomes, frames = self._answers, self._outcomes, []
        while outcomes and answers and answers[0] is _InFlight.CHUNK:
            sequence = outcomes[0]
            if not isinstance(sequence, int):
                break
            answers.popleft()
            outcomes.popleft()
            self.chunk_count = max(self.chunk_count, sequence)
            frames.append(self._acknowledgement.frame(sequence))
        return frames

    @property
    def has_outgoing(self) -> bool:
        """Whether an item can be sent now."""
        return bool(self._answers) and (bool(self._outcomes) or self._answers[0] is not _InFlight.CHUNK)

    def _answer_chunk(self, outcome: int | AudioError) -> Iterator[str | Close]:
        if isinstance(outcome, int):
            self.chunk_count = max(self.chunk_count, outcome)
            yield self._acknowledgement.fill(outcome)
        else:
            yield from self._say(outcome)

    def _say(self, answer: "AudioError | _Text | Close | _InFlight") -> Iterator[str | Close]:
        if isinstance(answer, _Text):
            yield messages.answer(answer.message, self.session_id, self.chunk_count, self.status, **answer.more)
        elif isinstance(answer, AudioError):
            yield messages.rejection(answer, self.session_id, self.chunk_count, self.status)
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
        self._answers.append(_Text(message, {}))

    def _end_after(self, error: AudioError) -> None:
        if error.close_code is not None and self.state is State.OPEN:
            self.state = State.ENDING
