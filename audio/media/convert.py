"""PURE. Conversion of samples to another sample format, other channels and another rate, window by window.

All samples are converted through float64, which represents every integer sample exactly. soxr resamples at its best
quality. Its filter needs some frames before and after each sample. So a `Converter` keeps the last input frames,
processes them again with the next window, and leaves out the output that it has already returned. The output is the
same as that of one run over all samples, so there is no click between windows. ITU-T G.711 defines mu-law and A-law.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from audio.deferred import DeferredModule
from audio.media.samples import PcmFormat, Samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import soxr

    Frames: TypeAlias = npt.NDArray[np.float64]
else:
    np, soxr = DeferredModule("numpy"), DeferredModule("soxr")

_BLOCK_FRAMES = 1 << 17
# soxr's VHQ filter, measured: beyond 120 frames of the lower rate its weight is below 1e-7.
_REACH_FRAMES = 160
_MASTER_ENCODINGS = {"mulaw": "s16le", "alaw": "s16le", "f64le": "f32le"}
_INTEGER_BITS = {"s16le": 16, "s24le": 24, "s32le": 32}
# The largest value: it fits float32, and no filter can make it exceed float64.
_LOUDEST = 3e38
_HALF = math.sqrt(0.5)
# Weights (left, right) of the channels of WAV files, in the order of Microsoft's channel mask.
_LEFT, _RIGHT, _BOTH, _NONE = (1.0, 0.0), (0.0, 1.0), (_HALF, _HALF), (0.0, 0.0)
_LAYOUTS = {
    3: (_LEFT, _RIGHT, _BOTH),
    4: (_LEFT, _RIGHT, _LEFT, _RIGHT),
    5: (_LEFT, _RIGHT, _BOTH, _LEFT, _RIGHT),
    6: (_LEFT, _RIGHT, _BOTH, _NONE, _LEFT, _RIGHT),
    7: (_LEFT, _RIGHT, _BOTH, _NONE, _BOTH, _LEFT, _RIGHT),
    8: (_LEFT, _RIGHT, _BOTH, _NONE, _LEFT, _RIGHT, _LEFT, _RIGHT),
}


def master_encoding(encoding: str) -> str:
    """Return the encoding of a master that can hold the samples of the first chunk's encoding."""
    return _MASTER_ENCODINGS.get(encoding, encoding)


def _mulaw_table() -> npt.NDArray[np.int32]:
    codes = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitudes = ((((codes & 0x0F) << 3) + 0x84) << ((codes & 0x70) >> 4)) - 0x84
    return np.where(codes & 0x80, -magnitudes, magnitudes).astype(np.int32)


def _alaw_table() -> npt.NDArray[np.int32]:
    codes = np.arange(256, dtype=np.int32) ^ 0x55
    mantissas, segments = (codes & 0x0F) << 4, (codes & 0x70) >> 4
    magnitudes = np.where(segments == 0, mantissas + 8, (mantissas + 0x108) << np.maximum(segments - 1, 0))
    return np.where(codes & 0x80, magnitudes, -magnitudes).astype(np.int32)


def decode(samples: Samples) -> Frames:
    """Return whole frames as float64 from -1 to 1, with one row a frame and one column a channel."""
    encoding, raw = samples.format.encoding, np.frombuffer(samples.data, dtype=np.uint8)
    match encoding:
        case "u8":
            values = (raw.astype(np.float64) - 128) / 128
        case "mulaw" | "alaw":
            values = (_mulaw_table() if encoding == "mulaw" else _alaw_table())[raw] / 32768.0
        case "s24le":
            wide = np.zeros((len(raw) // 3, 4), dtype=np.uint8)
            wide[:, 1:] = raw.reshape(-1, 3)
            values = wide.view("<i4").ravel() / 2147483648.0
        case "s16le" | "s32le":
            bits = _INTEGER_BITS[encoding]
            values = raw.view(f"<i{bits // 8}") / float(1 << (bits - 1))
        case _:
            floats = raw.view(f"<f{4 if encoding == 'f32le' else 8}").astype(np.float64)
            values = np.clip(np.nan_to_num(floats), -_LOUDEST, _LOUDEST)
    return np.asarray(values, dtype=np.float64).reshape(-1, samples.format.channels)


def encode(frames: Frames, encoding: str) -> bytes:
    """Return frames as samples of an encoding, rounded to the nearest value and clipped."""
    if encoding == "f32le":
        return np.clip(frames, -_LOUDEST, _LOUDEST).astype("<f4").tobytes()
    if encoding == "u8":
        return (np.clip(np.rint(frames * 128), -128, 127) + 128).astype(np.uint8).tobytes()
    bits = _INTEGER_BITS[encoding]
    scale = float(1 << (bits - 1))
    integers = np.clip(np.rint(frames * scale), -scale, scale - 1).astype("<i4" if bits > 16 else "<i2")
    if bits != 24:
        return integers.tobytes()
    return np.ascontiguousarray(integers).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def remix(frames: Frames, channels: int) -> Frames:
    """Return frames with 1 or 2 channels: one channel is doubled, several are averaged or folded to a side."""
    given: int = frames.shape[1]
    if given == channels:
        return frames
    if channels == 1:
        averaged: Frames = np.mean(frames, axis=1, keepdims=True)
        return averaged
    if given == 1:
        return np.repeat(frames, channels, axis=1)
    weights = np.array(_LAYOUTS[given])
    mixed: Frames = frames @ (weights / weights.sum(axis=0))
    return mixed


@dataclass(slots=True)
class Converter:
    """A converter of the samples of one source to the format of the master, `target`.

    `tail` contains the input frames that the filter still needs, in the format `source`. `given_frames` is the number
    of output frames from the tail that were already returned. If the rates are equal, the tail is empty.
    """

    target: PcmFormat
    source: PcmFormat | None = None
    tail: bytes = b""
    given_frames: int = 0

    def state(self) -> dict[str, Any]:
        """Return the state as JSON; `restore` is the inverse. It has at most a second and a few frames of input."""
        if self.source is None or not self.tail:
            return {}
        return {
            "source": [self.source.encoding, self.source.sample_rate, self.source.channels],
            "tail": base64.b64encode(self.tail).decode(),
            "given_frames": self.given_frames,
        }

    @classmethod
    def restore(cls, target: PcmFormat, state: dict[str, Any]) -> Converter:
        """Return the converter with this `state`, for a format of the master."""
        if not state:
            return cls(target)
        return cls(target, PcmFormat(*state["source"]), base64.b64decode(state["tail"]), state["given_frames"])

    def feed(self, samples: Samples) -> Iterator[bytes]:
        """Yield the samples of the master that are complete; the same bytes if the formats do not differ."""
        if samples.format != self.source:
            yield from self.flush()
            self.source = samples.format
        if samples.format == self.target:
            yield samples.data
            return
        step = _BLOCK_FRAMES * samples.format.frame_bytes
        for start in range(0, len(samples.data), step):
            yield self._convert(samples.format, samples.data[start : start + step])

    def flush(self) -> Iterator[bytes]:
        """Yield the rest at the end of the source, or when its format changes."""
        if self.source is not None and self.tail:
            yield self._resample(self.source, self.tail)[self.given_frames * self.target.frame_bytes :]
        self.source, self.tail, self.given_frames = None, b"", 0

    def _convert(self, source: PcmFormat, data: bytes) -> bytes:
        if source.sample_rate == self.target.sample_rate:
            return encode(remix(decode(Samples(source, data)), self.target.channels), self.target.encoding)
        block = self.tail + data
        divisor = math.gcd(source.sample_rate, self.target.sample_rate)
        step_in, step_out = source.sample_rate // divisor, self.target.sample_rate // divisor
        reach = _REACH_FRAMES * max(1, math.ceil(step_in / step_out))
        ready = max(self.given_frames, (len(block) // source.frame_bytes - reach) * step_out // step_in)
        output = self._resample(source, block)[: ready * self.target.frame_bytes]
        given = output[self.given_frames * self.target.frame_bytes :]
        # Cut at a place where both rates have a sample, so that the next run has the same grid.
        steps = max(0, ready * step_in // step_out - reach) // step_in
        self.tail, self.given_frames = block[steps * step_in * source.frame_bytes :], ready - steps * step_out
        return given

    def _resample(self, source: PcmFormat, data: bytes) -> bytes:
        frames = remix(decode(Samples(source, data)), self.target.channels)
        resampled = soxr.resample(frames, source.sample_rate, self.target.sample_rate, quality="VHQ")
        return encode(resampled, self.target.encoding)
