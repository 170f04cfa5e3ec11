"""Containers with gaps, late beginnings and odd timestamps: packets that FFmpeg made, written with other times."""

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.sound import FFMPEG, encoded

RATE = 48000
BURST = 0.1
_PACKET_SECONDS = 0.02


def bursts(seconds: int = 2) -> np.ndarray:
    """Silence with a tone of a tenth of a second in the middle of each second. int16, one row a frame."""
    time = np.arange(seconds * RATE) / RATE
    is_loud = (time % 1 >= 0.5) & (time % 1 < 0.5 + BURST)
    tone = np.where(is_loud, 0.5 * np.sin(2 * np.pi * 1000 * time), 0)
    return np.rint(tone * 32767).astype("<i2")[:, None]


def onsets_seconds(data: bytes, rate: int = RATE, channels: int = 1) -> list[float]:
    """When a tone begins, in samples of 16 bits: where 5 ms are loud and the 150 ms before them are not."""
    stretch = rate // 200
    loud = np.abs(np.frombuffer(data, dtype="<i2").reshape(-1, channels)[:, 0].astype(int))
    loud = loud[: len(loud) // stretch * stretch].reshape(-1, stretch).max(axis=1) > 2000
    found = np.flatnonzero(loud)
    return [at * stretch / rate for number, at in enumerate(found) if not number or at - found[number - 1] > 30]


def retimed(
    sound: np.ndarray,
    path: Path,
    gap_at: float = 0.0,
    gap_seconds: float = 0.0,
    restart_at: float = 0.0,
    jitter_ms: Callable[[int], int] | None = None,
) -> Path:
    """Write the sound as Opus whose packets from `gap_at` on come `gap_seconds` later.

    Of WebM alone, those from `restart_at` on begin at zero again, and each is so many ms off.
    """
    source = path.with_name("source.mka")
    encoded(sound, RATE, source, "-c:a", "libopus", "-frame_duration", "20")
    if path.suffix == ".webm":
        path.write_bytes(_webm(_packets(source), gap_at, gap_seconds, restart_at, jitter_ms))
        return path
    late = f"if(gte(PTS*TB,{gap_at}),{gap_seconds}/TB,0)" if gap_seconds else "0"
    command = [FFMPEG, "-v", "error", "-i", str(source), "-c", "copy", "-bsf:a", f"setts=ts='PTS+{late}'"]
    pages = ("-page_duration", "1") if path.suffix == ".ogg" else ()
    subprocess.run([*command, *pages, "-y", str(path)], check=True)
    return path


def _packets(source: Path) -> list[bytes]:
    """The packets of an Opus stream, of 20 ms each."""
    copied = [FFMPEG, "-v", "error", "-i", str(source), "-map", "0:a", "-c", "copy"]
    lines = subprocess.run([*copied, "-f", "framecrc", "-"], capture_output=True, text=True, check=True).stdout
    data = subprocess.run([*copied, "-f", "data", "-"], capture_output=True, check=True).stdout
    ends = itertools.accumulate(int(line.split(",")[4]) for line in lines.splitlines() if not line.startswith("#"))
    return [data[start:end] for start, end in itertools.pairwise([0, *ends])]


_HEAD = b"OpusHead\x01\x01" + (312).to_bytes(2, "little") + RATE.to_bytes(4, "little") + bytes(3)


def _element(number: str, content: bytes) -> bytes:
    return bytes.fromhex(number) + (0x10000000 | len(content)).to_bytes(4, "big") + content


def _webm(
    packets: list[bytes], gap_at: float, gap_seconds: float, restart_at: float, jitter_ms: Callable[[int], int] | None
) -> bytes:
    """WebM of a cluster a packet, as live muxers that flush at once write it."""
    head = _element("1a45dfa3", _element("4282", b"webm") + _element("4287", b"\x04") + _element("4285", b"\x02"))
    sound = _element("9f", b"\x01") + _element("b5", _double(RATE))
    track = _element("d7", b"\x01") + _element("73c5", b"\x01") + _element("83", b"\x02") + _element("86", b"A_OPUS")
    track += _element("63a2", _HEAD) + _element("e1", sound)
    in_ms = _element("1549a966", _element("2ad7b1", (10**6).to_bytes(4, "big")))
    written = [head, bytes.fromhex("1853806701ffffffffffffff"), in_ms, _element("1654ae6b", _element("ae", track))]
    for number, packet in enumerate(packets):
        moment = number * _PACKET_SECONDS
        start_ms = round(moment * 1000)
        if gap_seconds and moment >= gap_at:
            start_ms += round(gap_seconds * 1000)
        if restart_at and moment >= restart_at:
            start_ms -= round(restart_at * 1000)
        start_ms = max(0, start_ms + (jitter_ms(number) if jitter_ms and number else 0))
        block = _element("a3", b"\x81\x00\x00\x80" + packet)
        written.append(_element("1f43b675", _element("e7", start_ms.to_bytes(8, "big")) + block))
    return b"".join(written)


def _double(value: float) -> bytes:
    return np.array([value], dtype=">f8").tobytes()


def ogg_with_gaps(sound: np.ndarray, path: Path, gap_at: float, gap_seconds: float, packets_per_page: int) -> Path:
    """Write the sound as Ogg Opus (RFC 7845) whose pages from `gap_at` on end `gap_seconds` later."""
    source = path.with_name("source.mka")
    encoded(sound, RATE, source, "-c:a", "libopus", "-frame_duration", "20")
    packets, granule = _packets(source), 0
    pages = [_page([_HEAD], 0, 0, 2), _page([b"OpusTags" + bytes(8)], 0, 1, 0)]
    for first in range(0, len(packets), packets_per_page):
        group = packets[first : first + packets_per_page]
        if first * _PACKET_SECONDS >= gap_at > (first - packets_per_page) * _PACKET_SECONDS:
            granule += round(gap_seconds * RATE)
        granule += len(group) * 960
        flags = 4 if first + packets_per_page >= len(packets) else 0
        pages.append(_page(group, granule, len(pages), flags))
    path.write_bytes(b"".join(pages))
    return path


def _page(packets: list[bytes], granule: int, number: int, flags: int) -> bytes:
    segments = b"".join(bytes([255] * (len(packet) // 255) + [len(packet) % 255]) for packet in packets)
    head = b"OggS\0" + bytes([flags]) + granule.to_bytes(8, "little") + (7).to_bytes(4, "little")
    head += number.to_bytes(4, "little") + bytes(4) + bytes([len(segments)]) + segments
    page = head + b"".join(packets)
    return page[:22] + _crc(page).to_bytes(4, "little") + page[26:]


def _crc(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value
