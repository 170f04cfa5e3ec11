"""What containers say and hold, asked of FFmpeg without any code of ours; and what browsers recorded."""

import re
import subprocess
from pathlib import Path

from tests.sound import FFMPEG

VECTORS = Path(__file__).parent / "vectors"


def vector(name: str) -> list[bytes]:
    """The messages of a recorded browser, the empty ones too."""
    return [path.read_bytes() for path in sorted((VECTORS / name).glob("*.bin"))]


def recorders_of(name: str) -> list[list[bytes]]:
    """The messages of a recorded browser, apart for each of its MediaRecorders: a header begins one."""
    apart: list[list[bytes]] = []
    for message in vector(name):
        if message.startswith(b"\x1a\x45\xdf\xa3") or message[4:8] == b"ftyp":
            apart.append([])
        apart[-1].append(message)
    return apart


def _framemd5(path: Path) -> list[str]:
    command = [FFMPEG, "-v", "error", "-i", str(path), "-c", "copy", "-f", "framemd5", "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def packets(path: Path) -> list[tuple[int, str]]:
    """Each packet's time and hash, by FFmpeg alone."""
    lines = _framemd5(path)
    fields = [line.split(",") for line in lines if not line.startswith("#")]
    return [(int(field[2]), field[5].strip()) for field in fields]


def hashes(*paths: Path) -> list[str]:
    return [packet for path in paths for _, packet in packets(path)]


def duration_seconds(path: Path) -> float:
    """What the container says, nothing decoded."""
    told = subprocess.run([FFMPEG, "-i", str(path)], capture_output=True, text=True, check=False).stderr
    match = re.search(r"Duration: (\d+):(\d+):([\d.]+)", told)
    assert match, "the container has no duration"
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def timeline_seconds(path: Path, *, is_followed: bool = False) -> float:
    """From the first packet to the end of the last, whatever the header says.

    A last packet that is followed by another stream's is played as a whole: it is as long as the one before it.
    """
    lines = _framemd5(path)
    base = next(line.split(": ")[1] for line in lines if line.startswith("#tb 0"))
    first, last = ([int(field) for field in line.split(",")[1:4]] for line in (lines[-len(packets(path))], lines[-1]))
    if is_followed:
        last[2] = max(last[2], int(lines[-2].split(",")[3]))
    return (last[1] + last[2] - first[1]) * int(base.split("/")[0]) / int(base.split("/")[1])


def has_index(path: Path) -> bool:
    """Whether a player finds any moment without reading the whole file."""
    data = path.read_bytes()
    if path.suffix == ".webm":
        return b"\x1c\x53\xbb\x6b" in data
    return path.suffix == ".ogg" or (0 < data.find(b"moov") < data.find(b"mdat") and b"moof" not in data)
