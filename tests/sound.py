"""Sound for tests: made by numpy, always the same, and encoded and decoded by FFmpeg without any code of ours."""

import io
import subprocess
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def speech(seconds: float, rate: int = 16000, channels: int = 1, seed: int = 1) -> np.ndarray:
    """Something like speech: noise in syllables, with a gliding tone. int16, one row a frame."""
    frames = round(seconds * rate)
    time = np.arange(frames) / rate
    noise = np.random.default_rng(seed).standard_normal((frames, channels))
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time) * np.sin(2 * np.pi * 0.7 * time)
    glide = np.sin(2 * np.pi * (200 * time + 60 * time**2))
    mixed = 0.08 * noise * envelope[:, None] + 0.3 * glide[:, None] * np.linspace(1, 0.6, channels)
    return np.clip(np.rint(mixed * 32767), -32768, 32767).astype("<i2")


def wav_bytes(samples: np.ndarray, rate: int) -> bytes:
    """A plain 16-bit WAV file by Python's own wave module."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def samples_of(file: bytes) -> bytes:
    """Return the samples of a 16-bit WAV file, read by Python's own wave module."""
    with wave.open(io.BytesIO(file)) as sound:
        return sound.readframes(sound.getnframes())


def _run(*arguments: str, data: bytes = b"") -> bytes:
    command = [FFMPEG, "-hide_banner", "-loglevel", "error", *arguments]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def encoded(samples: np.ndarray, rate: int, path: Path, *options: str) -> bytes:
    """The samples as a file of the kind that the path's suffix says; written by a seeking FFmpeg, so complete."""
    _run("-i", "pipe:0", *options, "-y", str(path), data=wav_bytes(samples, rate))
    return path.read_bytes()


def encoded_live(samples: np.ndarray, rate: int, kind: str, *options: str) -> bytes:
    """The samples as a live encoder gives them: through a pipe, with no totals in the header."""
    return _run("-i", "pipe:0", *options, "-f", kind, "pipe:1", data=wav_bytes(samples, rate))


def decoded(path: Path, encoding: str = "s16le", *input_options: str, rate: int | None = None) -> bytes:
    """What FFmpeg decodes a file to, at the file's own channels, and its own rate where none is given."""
    resampled = ("-ar", str(rate)) if rate else ()
    return _run(*input_options, "-i", str(path), "-map", "0:a:0", *resampled, "-f", encoding, "pipe:1")


def cut(data: bytes, *sizes: int) -> list[bytes]:
    """The data in pieces of those sizes, the last size again and again."""
    pieces, at, number = [], 0, 0
    while at < len(data):
        size = sizes[min(number, len(sizes) - 1)]
        pieces.append(data[at : at + size])
        at, number = at + size, number + 1
    return pieces
