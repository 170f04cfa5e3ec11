"""Range, preconditions and streaming, against files."""

import os
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from django.test import AsyncRequestFactory
from django.utils.http import http_date
from hypothesis import given
from hypothesis import strategies as st

from audio.api.ranged import READ_SIZE_BYTES, Span, parse_range, ranged_response
from audio.errors import MasterDamagedError, PreconditionFailedError, RangeNotSatisfiableError
from audio.storage.downloads import Servable

CONTENT = bytes(range(256)) * 8
MODIFIED_AT = datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)


@pytest.fixture
def make_servable(tmp_path):
    def make(content=CONTENT, head=b"", **fields):
        path = tmp_path / "recording"
        path.write_bytes(content)
        described = {
            "size_bytes": len(content),
            "content_type": "audio/wav",
            "etag": '"abc-1"',
            "download_name": "recording.wav",
            "modified_at": MODIFIED_AT,
        }
        return Servable(path=path, head=head, **{**described, **fields})

    return make


def ask(servable, method="GET", **headers):
    request = AsyncRequestFactory().generic(
        method, "/", headers={name.replace("_", "-"): v for name, v in headers.items()}
    )
    return ranged_response(request, servable)


async def read(response):
    content = b"".join([part async for part in response])
    response.close()
    return content


def is_open(servable):
    """Whether this process has the file open. Other files come and go with the garbage collector."""
    return str(servable.path) in [file.path for file in psutil.Process().open_files()]


async def test_the_whole_file(make_servable):
    response = ask(make_servable())
    assert response.status_code == 200
    assert response["Content-Type"] == "audio/wav"
    assert response["Content-Length"] == str(len(CONTENT))
    assert response["Content-Disposition"] == 'attachment; filename="recording.wav"'
    assert response["Accept-Ranges"] == "bytes"
    assert response["ETag"] == '"abc-1"'
    assert response["Last-Modified"] == "Sun, 01 Mar 2026 12:00:00 GMT"
    assert await read(response) == CONTENT


async def test_a_name_beyond_ascii_is_sent_as_rfc_6266_says(make_servable):
    response = ask(make_servable(download_name="größe.wav"))
    assert response["Content-Disposition"] == "attachment; filename*=utf-8''gr%C3%B6%C3%9Fe.wav"
    response.close()


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=2000-", 2000, 2048),
        ("bytes=-5", 2043, 2048),
        ("bytes=-9999", 0, 2048),
        ("bytes=2040-99999", 2040, 2048),
        ("BYTES=1-2", 1, 3),
        ("bytes= 1-2 ,", 1, 3),
    ],
)
async def test_a_range(make_servable, header, start, end):
    response = ask(make_servable(), Range=header)
    assert response.status_code == 206
    assert response["Content-Range"] == f"bytes {start}-{end - 1}/2048"
    assert response["Content-Length"] == str(end - start)
    assert await read(response) == CONTENT[start:end]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes=",
        "bytes=-",
        "bytes=5-2",
        "bytes=a-b",
        "items=0-1",
        "0-1",
        "bytes=0-1,5-6",
        "bytes=²-³",
        "bytes=+1-2",
        pytest.param(f"bytes=0-{'9' * 5000}", id="too many digits"),
    ],
)
async def test_what_is_not_one_range_gets_the_whole(make_servable, header):
    response = ask(make_servable(), Range=header)
    assert response.status_code == 200
    assert "Content-Range" not in response
    assert await read(response) == CONTENT


@pytest.mark.parametrize("header", ["bytes=2048-", "bytes=2048-3000", "bytes=-0"])
def test_a_range_outside_of_the_file_is_rejected(make_servable, header):
    with pytest.raises(RangeNotSatisfiableError) as raised:
        ask(make_servable(), Range=header)
    assert raised.value.details == {"size_bytes": 2048}


def test_an_empty_file_has_no_range(make_servable):
    with pytest.raises(RangeNotSatisfiableError):
        ask(make_servable(content=b""), Range="bytes=0-")


@given(size=st.integers(1, 300), first=st.integers(0, 400), last=st.integers(0, 400))
def test_a_span_lies_in_the_file_and_is_what_slicing_gives(size, first, last):
    content = bytes(range(256)) + bytes(44)
    if first <= last and first < size:
        span = parse_range(f"bytes={first}-{last}", size)
        assert span is not None
        assert content[:size][span.start : span.end] == content[:size][first : last + 1]
        assert span.length_bytes == len(content[:size][first : last + 1])
    elif first <= last:
        with pytest.raises(RangeNotSatisfiableError):
            parse_range(f"bytes={first}-{last}", size)
    else:
        assert parse_range(f"bytes={first}-{last}", size) is None


@pytest.mark.parametrize("span", [Span(0, 300_000), Span(0, 4), Span(2, 9), Span(8, 20), Span(4, 300_000)])
async def test_the_head_stands_in_for_the_first_bytes(make_servable, span):
    content = os.urandom(300_000)
    wanted = b"HEADHEAD" + content[8:]
    response = ask(make_servable(content, head=b"HEADHEAD"), Range=f"bytes={span.start}-{span.end - 1}")
    assert await read(response) == wanted[span.start : span.end]


async def test_a_live_file_ends_where_it_ended_when_asked(make_servable):
    servable = make_servable(size_bytes=100)
    response = ask(servable)
    assert response["Content-Length"] == "100"
    assert await read(response) == CONTENT[:100]


async def test_a_file_that_is_too_short_breaks_off_and_is_never_padded(make_servable):
    response = ask(make_servable(size_bytes=3000))
    with pytest.raises(MasterDamagedError):
        await read(response)
    response.close()


async def test_a_head_request_has_the_headers_alone_and_no_range(make_servable):
    servable = make_servable()
    response = ask(servable, "HEAD", Range="bytes=0-1")
    assert response.status_code == 200
    assert response["Content-Length"] == str(len(CONTENT))
    assert response.content == b""
    assert not is_open(servable)


@pytest.mark.parametrize("etag", ['"abc-1"', 'W/"abc-1"', '"x", "abc-1"', "*"])
def test_unchanged_by_etag(make_servable, etag):
    response = ask(make_servable(), If_None_Match=etag)
    assert response.status_code == 304
    assert response["ETag"] == '"abc-1"'
    assert response.content == b""


async def test_changed_by_etag(make_servable):
    response = ask(make_servable(), If_None_Match='"abc-2"', If_Modified_Since=http_date(MODIFIED_AT.timestamp()))
    assert response.status_code == 200
    response.close()


def test_unchanged_by_date(make_servable):
    assert ask(make_servable(), If_Modified_Since=http_date(MODIFIED_AT.timestamp())).status_code == 304


def test_a_precondition_that_does_not_hold(make_servable):
    with pytest.raises(PreconditionFailedError):
        ask(make_servable(), If_Match='"abc-2"')
    with pytest.raises(PreconditionFailedError):
        ask(make_servable(), If_Unmodified_Since=http_date(MODIFIED_AT.timestamp() - 10))


@pytest.mark.parametrize("condition", ['"abc-1"', http_date(MODIFIED_AT.timestamp())])
async def test_if_range_holds(make_servable, condition):
    response = ask(make_servable(), Range="bytes=0-9", If_Range=condition)
    assert response.status_code == 206
    response.close()


@pytest.mark.parametrize(
    "condition", ['"abc-2"', 'W/"abc-1"', http_date(MODIFIED_AT.timestamp() - 1), "Sun, 99 Mar 2026", ""]
)
async def test_if_range_does_not_hold(make_servable, condition):
    response = ask(make_servable(), Range="bytes=0-9", If_Range=condition)
    assert response.status_code == 200
    assert await read(response) == CONTENT


async def test_a_date_within_its_second_is_no_strong_validator(make_servable):
    now = datetime.now(UTC) + timedelta(seconds=1)
    response = ask(make_servable(modified_at=now), Range="bytes=0-9", If_Range=http_date(now.timestamp()))
    assert response.status_code == 200
    response.close()


async def test_a_reader_that_leaves_closes_the_file(make_servable):
    servable = make_servable(os.urandom(4 * READ_SIZE_BYTES))
    response = ask(servable)
    parts = aiter(response)
    assert len(await anext(parts)) == READ_SIZE_BYTES
    assert is_open(servable)
    response.close()
    assert not is_open(servable)
    await parts.aclose()


async def test_a_download_holds_no_more_than_one_part_in_memory(make_servable):
    response = ask(make_servable(os.urandom(5 * READ_SIZE_BYTES + 1)))
    sizes = [len(part) async for part in response]
    response.close()
    assert sizes == [READ_SIZE_BYTES] * 5 + [1]
