"""The state machine of a connection, through what it is given and what it gives out."""

import json
import uuid
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from audio.errors import IdleTimeoutError, SessionClosedError, SessionPausedError, StorageFullError
from audio.wire import messages
from audio.wire.connection import Close, Connection, State
from audio.wire.messages import Action, parse_text

SESSION_ID = "0f0e0d0c-1111-4222-8333-444455556666"
CLOSE_SESSION = '{"type": "control", "action": "close_session"}'


def connection() -> Connection:
    return Connection(SESSION_ID)


def said(machine: Connection) -> list:
    return [item if isinstance(item, Close) else json.loads(item) for item in machine.outgoing()]


def test_nothing_is_said_of_a_chunk_before_it_is_stored():
    machine = connection()
    assert machine.receive_binary(3200)
    assert said(machine) == []
    machine.deliver(1)
    assert said(machine) == [
        {"message": "Chunk processed successfully", "session_id": SESSION_ID, "chunk_count": 1, "status": "active"}
    ]


@given(st.uuids(version=4), st.integers(min_value=1, max_value=2**63))
def test_the_template_gives_the_json_of_the_contract(session_id: uuid.UUID, count: int):
    filled = messages.AcknowledgementTemplate(str(session_id), "active").fill(count)
    assert json.loads(filled) == {
        "message": "Chunk processed successfully",
        "session_id": str(session_id),
        "chunk_count": count,
        "status": "active",
    }
    assert filled == messages.answer(messages.STORED, str(session_id), count, "active")
    assert text_of(messages.AcknowledgementTemplate(str(session_id), "active").frame(count)) == filled


def text_of(frame: bytes) -> str:
    """The text of one whole frame of a server, as the websockets library reads it."""
    reader = StreamReader()
    reader.feed_data(frame)
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    found: Frame = parsed.value.value
    assert (found.opcode, found.fin) == (Opcode.TEXT, True)
    return bytes(found.data).decode()


def test_the_same_four_keys_come_first_in_every_answer():
    machine = connection()
    machine.greet(messages.CREATED, sample_rate=16000)
    machine.receive_binary(0)
    machine.receive_text('{"type": "control", "action": "ping"}')
    machine.paused()
    machine.resumed()
    machine.closed()
    for answer in machine.outgoing():
        if isinstance(answer, str):
            assert list(json.loads(answer))[:4] == ["message", "session_id", "chunk_count", "status"]


def test_chunks_committed_together_are_answered_one_two_three():
    machine = connection()
    for _ in range(3):
        machine.receive_binary(10)
    for sequence in (1, 2, 3):
        machine.deliver(sequence)
    assert [answer["chunk_count"] for answer in said(machine)] == [1, 2, 3]


def test_an_empty_message_is_answered_with_the_count_and_stores_nothing():
    machine = connection()
    machine.receive_binary(10)
    assert not machine.receive_binary(0)
    machine.deliver(7)
    assert [(a["message"], a["chunk_count"]) for a in said(machine)] == [(messages.STORED, 7), (messages.STORED, 7)]


def test_answers_keep_the_order_of_the_messages():
    machine = connection()
    machine.receive_binary(10)
    machine.receive_text("not json")
    machine.receive_binary(10)
    machine.receive_text('{"type": "control", "action": "ping"}')
    assert said(machine) == []
    machine.deliver(1)
    first = said(machine)
    assert [first[0]["chunk_count"], first[1]["code"]] == [1, "invalid_json"]
    machine.deliver(2)
    assert [answer["message"] for answer in said(machine)] == [messages.STORED, "pong"]


@pytest.mark.parametrize(
    ("text", "code", "received"),
    [
        ("", "invalid_json", ""),
        ("{", "invalid_json", "{"),
        ("[" * 100_000, "invalid_json", "[" * 100),
        ("[]", "unknown_message_type", "[]"),
        ('"close_session"', "unknown_message_type", '"close_session"'),
        ("{}", "unknown_message_type", None),
        ('{"type": "audio"}', "unknown_message_type", "audio"),
        ('{"type": ["control"]}', "unknown_message_type", "['control']"),
        ('{"type": "control"}', "unknown_action", None),
        ('{"type": "control", "action": "stop"}', "unknown_action", "stop"),
        ('{"type": "control", "action": {"a": 1}}', "unknown_action", "{'a': 1}"),
        ('{"type": NaN}', "invalid_json", '{"type": NaN}'),
        ('{"type": "control", "action": -Infinity}', "invalid_json", '{"type": "control", "action": -Infinity}'),
        ('{"type": 1e999}', "unknown_message_type", "inf"),
        ('{"type": ' + "9" * 4000 + "}", "unknown_message_type", "9" * 100),
    ],
)
def test_text_that_is_not_understood_gets_an_error_and_the_connection_goes_on(text, code, received):
    machine = connection()
    assert machine.receive_text(text) is None
    (answer,) = said(machine)
    assert answer["code"] == code
    assert answer.get("received") == received
    assert answer["valid_values"]
    assert machine.receive_binary(1)


@pytest.mark.parametrize(
    ("text", "code", "received"),
    [
        ('{"event": "media", "media": {"payload": "//8="}}', "unknown_message_type", "media"),
        ('{"event": "connected", "protocol": "Call"}', "unknown_message_type", "connected"),
        (
            '{"type": "input_audio_buffer.append", "audio": "AAAA"}',
            "unknown_message_type",
            "input_audio_buffer.append",
        ),
        ('{"type": "CloseStream"}', "unknown_message_type", "CloseStream"),
        ('{"eof" : 1}', "unknown_message_type", '{"eof": 1}'),
        ('{"config": {"sample_rate": 16000}}', "unknown_message_type", '{"config": {"sample_rate": 16000}}'),
        ("[0.1, 0.2]", "unknown_message_type", "[0.1, 0.2]"),
        ("UklGRiQ" * 40, "invalid_json", ("UklGRiQ" * 40)[:100]),
        ("data:audio/webm;base64,GkXf", "invalid_json", "data:audio/webm;base64,GkXf"),
        ("[object Blob]", "invalid_json", "[object Blob]"),
        ("EOS", "invalid_json", "EOS"),
        ("\x00\x7fRIFF", "invalid_json", "\x00\x7fRIFF"),
    ],
)
def test_audio_in_a_text_is_told_where_audio_belongs(text, code, received):
    machine = connection()
    machine.receive_text(text)
    (answer,) = said(machine)
    assert (answer["code"], answer["received"]) == (code, received)
    for words in ("Audio is sent as binary messages", "/api/asyncapi", "docs/protocol.md"):
        assert words in answer["error"]
    assert machine.receive_binary(1)


def test_an_action_without_a_type_is_told_the_whole_message():
    machine = connection()
    machine.receive_text('{"action": "close_session"}')
    (answer,) = said(machine)
    assert (answer["code"], answer["received"]) == ("unknown_message_type", "close_session")
    assert '{"type": "control", "action": "close_session"}' in answer["error"]


def test_a_warning_answers_nothing_and_is_no_rejection():
    machine = connection()
    machine.receive_binary(10)
    machine.warn({"code": "undecodable_chunk", "detail": "why", "first_sequence": 1, "last_sequence": 2})
    assert said(machine) == []
    machine.deliver(4)
    stored, notice = said(machine)
    assert stored["chunk_count"] == 4
    assert list(notice)[:5] == ["message", "session_id", "chunk_count", "status", "event"]
    assert (notice["event"], notice["code"], "error" in notice) == ("error", "undecodable_chunk", False)
    machine.closed()
    machine.warn({"code": "undecodable_chunk", "detail": "why"})
    assert len(said(machine)) == 2


@pytest.mark.parametrize("action", list(Action))
def test_each_action_is_understood(action):
    assert parse_text(json.dumps({"type": "control", "action": action})) is action


def test_the_sentences_of_the_contract():
    machine = connection()
    machine.receive_text("x")
    machine.receive_text('{"type": "x"}')
    assert [answer["error"] for answer in said(machine)] == ["Invalid JSON format", "Unknown message type"]


def test_closing_says_completed_then_1000_and_takes_nothing_more():
    machine = connection()
    assert machine.receive_text(CLOSE_SESSION) is Action.CLOSE_SESSION
    machine.closed()
    assert not machine.receive_binary(10)
    answer, close = said(machine)
    assert (answer["message"], answer["status"], close) == ("Session closed successfully", "completed", Close(1000))
    assert machine.state is State.ENDED
    machine.receive_text("x")
    assert said(machine) == []


def test_a_paused_session_rejects_and_goes_on():
    machine = connection()
    machine.paused()
    machine.receive_binary(10)
    machine.deliver(SessionPausedError())
    paused, rejected = said(machine)
    assert (paused["status"], rejected["code"], rejected["status"]) == ("paused", "session_paused", "paused")
    machine.resumed()
    machine.receive_binary(10)
    machine.deliver(1)
    assert [answer["status"] for answer in said(machine)] == ["active", "active"]


def test_a_fatal_rejection_is_sent_in_its_turn_and_then_the_close():
    machine = connection()
    machine.receive_binary(1)
    machine.receive_binary(1)
    machine.deliver(1)
    machine.deliver(StorageFullError())
    assert not machine.receive_binary(1)
    acknowledged, error, close = said(machine)
    assert (acknowledged["chunk_count"], error["code"], close) == (1, "storage_full", Close(1013))


def test_what_is_with_the_committer_is_answered_before_the_end():
    machine = connection()
    machine.receive_binary(1)
    machine.reject(IdleTimeoutError(limit=300))
    assert said(machine) == []
    machine.deliver(1)
    acknowledged, error, close = said(machine)
    assert (acknowledged["chunk_count"], error["code"], error["limit"], close) == (1, "idle_timeout", 300, Close(4408))


def test_a_second_end_changes_nothing():
    machine = connection()
    machine.end(1012)
    machine.reject(SessionClosedError())
    machine.closed()
    assert said(machine) == [Close(1012)]


class AcknowledgedMeansDurable(RuleBasedStateMachine):
    """Any order of messages and commits: an acknowledgement follows the commit, once, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = connection()
        self.waiting: deque[int] = deque()
        self.durable: list[int] = []
        self.acknowledged: list[int] = []
        self.expected: deque[str] = deque()
        self.count = 0

    @rule(size=st.integers(min_value=0, max_value=3))
    def binary(self, size):
        before = self.machine.state
        if self.machine.receive_binary(size):
            self.count += 1
            self.waiting.append(self.count)
            self.expected.append("chunk")
        elif before is State.OPEN:
            self.expected.append("empty")

    @rule()
    def wrong_text(self):
        if self.machine.state is State.OPEN:
            self.expected.append("invalid_json")
        self.machine.receive_text("?")

    @precondition(lambda self: self.waiting)
    @rule()
    def commit(self):
        sequence = self.waiting.popleft()
        self.durable.append(sequence)
        self.machine.deliver(sequence)

    @rule()
    def end(self):
        self.machine.end(1012)

    def sent(self) -> Iterator[str | Close]:
        yield from self.machine.outgoing()

    @invariant()
    def never_acknowledged_before_durable(self):
        for item in self.sent():
            if isinstance(item, Close):
                assert not self.expected
                assert not self.waiting
                continue
            answer, expected = json.loads(item), self.expected.popleft()
            if expected == "chunk":
                self.acknowledged.append(answer["chunk_count"])
                assert answer["message"] == messages.STORED
            else:
                assert answer.get("code", "empty") == expected
        assert self.acknowledged == self.durable[: len(self.acknowledged)]
        assert self.machine.in_flight == len(self.waiting)


class AcknowledgedInFrames(AcknowledgedMeansDurable):
    """The same, where a server sends the frames of acknowledgements before all that waits behind them."""

    def sent(self) -> Iterator[str | Close]:
        yield from map(text_of, self.machine.acknowledgement_frames())
        has_outgoing, others = self.machine.has_outgoing, list(self.machine.outgoing())
        assert has_outgoing == bool(others)
        yield from others


TestAcknowledgedInFrames = pytest.mark.slow(AcknowledgedInFrames.TestCase)
TestAcknowledgedMeansDurable = pytest.mark.slow(AcknowledgedMeansDurable.TestCase)
