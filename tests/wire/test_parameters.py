"""The query string of a connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.errors import InvalidParameterError, ParameterConflictError
from audio.wire.parameters import ConnectionRequest, SessionParameters, parse_label, parse_query

RATES_HZ = [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000]
DEFAULTS = SessionParameters(sample_rate=16000, channels=1, format="wav")


def test_an_empty_query_gives_the_defaults():
    assert parse_query(b"").parameters(DEFAULTS) == DEFAULTS


def test_every_parameter_is_read():
    request = parse_query(
        b"sample_rate=48000&channels=2&format=FLAC&encoding=s24le&chunks=files&user_id=J%C3%B6rg&source=mic-1&ticket=t"
    )
    assert request.parameters(DEFAULTS) == SessionParameters(48000, 2, "flac", "s24le", "files")
    assert (request.user_id, request.source, request.ticket) == ("Jörg", "mic-1", "t")


def test_details_are_read():
    request = parse_query(b"name=Interview%201&metadata.room=4&metadata.a.b%3D=%C3%BC&metadata.empty=")
    assert request.details.name == "Interview 1"
    assert request.details.metadata == {"room": "4", "a.b=": "ü", "empty": ""}
    assert (request.named, request.undecided) == ({}, ["format", "sample_rate", "channels"])


@pytest.mark.parametrize(
    ("query", "parameter", "valid"),
    [
        (b"sample_rate=11026", "sample_rate", RATES_HZ),
        (b"sample_rate=", "sample_rate", RATES_HZ),
        (b"sample_rate=16000.0", "sample_rate", RATES_HZ),
        ("sample_rate=١٦٠٠٠".encode(), "query", None),
        (b"channels=0", "channels", [1, 2]),
        (b"format=opus", "format", ["wav", "mp3", "flac", "aac", "webm", "ogg", "mp4"]),
        (b"encoding=u8", "encoding", ["s16le", "s24le", "s32le", "f32le", "mulaw", "alaw"]),
        (b"chunks=all", "chunks", ["auto", "stream", "files"]),
        (b"format=wav&format=wav", "format", None),
        (b"user_id=" + b"x" * 256, "user_id", None),
        (b"user_id=", "user_id", None),
        (b"source=a%00b", "source", None),
        (b"user_id=%ff", "query", None),
        (b"name=", "name", None),
        (b"name=a&name=b", "name", None),
        (b"metadata.=4", "metadata", None),
        (b"metadata.a=%00", "metadata.a", None),
        (b"metadata.a=1&metadata.a=2", "metadata.a", None),
        (b"&".join(b"metadata.%d=1" % number for number in range(51)), "metadata", None),
        (b"metadata.a=" + b"x" * 8192, "metadata", None),
        (b"&".join(b"metadata.%d=1" % number for number in range(200)), "query", None),
    ],
)
def test_a_wrong_value_names_what_would_be_right(query, parameter, valid):
    with pytest.raises(InvalidParameterError) as caught:
        parse_query(query)
    assert caught.value.details["parameter"] == parameter
    assert caught.value.details.get("valid_values") == valid


def test_an_unknown_parameter_names_the_known_ones():
    with pytest.raises(InvalidParameterError) as caught:
        parse_query(b"rate=8000")
    assert "sample_rate" in caught.value.details["valid_values"]


@given(st.binary(max_size=200))
def test_any_bytes_give_a_request_or_a_clear_error(query):
    try:
        assert isinstance(parse_query(query), ConnectionRequest)
    except InvalidParameterError as error:
        assert error.detail
        assert error.code == "invalid_parameter"


def test_a_resumed_session_is_compared_only_with_what_was_named():
    parse_query(b"channels=1").check_continues(DEFAULTS, None)
    parse_query(b"user_id=u1").check_continues(DEFAULTS, "u1")
    with pytest.raises(ParameterConflictError) as caught:
        parse_query(b"sample_rate=8000").check_continues(DEFAULTS, None)
    assert caught.value.details["valid_values"] == [16000]


def test_what_a_query_does_not_name_is_decided_by_the_media():
    assert parse_query(b"").undecided == ["format", "sample_rate", "channels"]
    assert parse_query(b"format=webm&encoding=mulaw&chunks=files").undecided == ["sample_rate", "channels"]
    assert parse_query(b"sample_rate=8000&format=wav&channels=1").undecided == []


def test_what_is_undecided_takes_any_value_and_says_which():
    request = parse_query(b"sample_rate=8000&channels=1")
    assert request.check_continues(DEFAULTS, None, ["format", "sample_rate"]) == {"sample_rate": 8000}
    assert request.check_continues(SessionParameters(8000, 1, "wav"), None) == {}


@pytest.mark.parametrize("rate", RATES_HZ)
def test_each_rate_can_be_named(rate):
    assert parse_query(f"sample_rate={rate}".encode()).named == {"sample_rate": rate}


@pytest.mark.parametrize(
    "label",
    [
        "山田\u3000太郎",
        "می\u200cخواهم",  # noqa: RUF001
        "ශ්\u200dරී",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        "Jean\u00a0Paul",
        "\u202bعربي\u202c",
        "\U0001fae8",
    ],
)
def test_a_label_is_in_any_script(label):
    assert parse_label("user_id", label) == label


@pytest.mark.parametrize("label", ["", "a\x00b", "a\nb", "\x7f", "\x85", "a\ud800b", "a\u2028b", "x" * 256])
def test_a_label_is_text(label):
    with pytest.raises(InvalidParameterError, match="1 to 255 characters and no control characters") as caught:
        parse_label("user_id", label)
    str(caught.value.details).encode()
