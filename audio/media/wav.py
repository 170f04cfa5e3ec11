"""PURE. WAV: an incremental reader that takes messages cut anywhere, and the header of the master files.

The reader (`WavReader`) takes the messages of one source, which under `format=wav` are raw PCM, whole WAV files
or slices of a WAV stream, and gives `Samples`: whole sample frames with their format. It knows no file; its
state is JSON, so that it can stand in the database between two windows.

RIFF/WAVE as in "Multimedia Programming Interface and Data Specifications 1.0", WAVE_FORMAT_EXTENSIBLE as in
Microsoft's "Multiple Channel Audio Data and WAVE Files", RF64 and ds64 as in EBU Tech 3306.
"""

import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from audio.errors import UndecodableChunk, UnsupportedMedia
from audio.sniff import Container, sniff

SAMPLE_BYTES = {
    "u8": 1,
    "s16le": 2,
    "s24le": 3,
    "s32le": 4,
    "f32le": 4,
    "f64le": 8,
    "mulaw": 1,
    "alaw": 1,
}
MAX_CHANNELS = 8
RATE_RANGE_HZ = (4000, 384000)
HEADER_BYTES = 80
_RIFF_HEAD_BYTES = 12
_MAX_FORMAT_BYTES = 1 << 16
# What live encoders write where they don't know the size: nothing, all ones, or FFmpeg's and SoX's largest.
_UNKNOWN_SIZES = {0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFFFFFFFFFF}
_ENCODINGS = {
    (1, 8): "u8",
    (1, 16): "s16le",
    (1, 24): "s24le",
    (1, 32): "s32le",
    (3, 32): "f32le",
    (3, 64): "f64le",
    (6, 8): "alaw",
    (7, 8): "mulaw",
}
_EXTENSIBLE = 0xFFFE
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_FORMAT_BYTES = 40
_DS64_BYTES = 28
# The sub-chunks that real files carry behind their data.
_TRAILERS = {
    *(b"LIST", b"id3 ", b"ID3 ", b"JUNK", b"junk", b"PAD ", b"FLLR", b"fact", b"cue ", b"plst", b"smpl", b"inst"),
    *(b"bext", b"iXML", b"axml", b"_PMX", b"acid", b"DISP", b"afsp", b"cart", b"PEAK", b"chna", b"levl", b"MD5 "),
}


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """The format of samples: encoding (a key of SAMPLE_BYTES), rate in Hz, channels."""

    encoding: str
    sample_rate: int
    channels: int

    @property
    def frame_bytes(self) -> int:
        """The size of one sample of every channel."""
        return SAMPLE_BYTES[self.encoding] * self.channels


@dataclass(frozen=True, slots=True)
class Samples:
    """Whole sample frames, interleaved."""

    format: PcmFormat
    data: bytes


def parse_format(body: bytes) -> PcmFormat:
    """Takes the body of a `fmt ` chunk; returns what it says.

    Raises UndecodableChunk if it contradicts itself, UnsupportedMedia if it is sane but not PCM, float, mu-law
    or A-law of 1 to 8 channels at 4 to 384 kHz.
    """
    if len(body) < 16:
        raise UndecodableChunk("The WAV header's format chunk is too short.")
    tag, channels, rate_hz, _, frame_bytes, _ = struct.unpack_from("<HHIIHH", body)
    if tag == _EXTENSIBLE:
        if len(body) < _FORMAT_BYTES or body[26:40] != _GUID_TAIL:
            raise UnsupportedMedia("The WAV header's extensible format is not one of audio samples.")
        tag = struct.unpack_from("<H", body, 24)[0]
    if not is_recordable(channels, rate_hz):
        raise UnsupportedMedia(f"A WAV file with {channels} channels at {rate_hz} Hz can't be recorded.")
    if frame_bytes % channels:
        raise UndecodableChunk("The WAV header's frame size is no multiple of its channels.")
    # The container decides: 20 bits are stored in 24, left-justified.
    encoding = _ENCODINGS.get((tag, frame_bytes // channels * 8))
    if encoding is None:
        raise UnsupportedMedia(f"A WAV file with format tag {tag} and {frame_bytes} bytes a frame can't be recorded.")
    return PcmFormat(encoding, rate_hz, channels)


def is_recordable(channels: int, rate_hz: int) -> bool:
    """Whether samples of so many channels at that rate can be recorded: 1 to 8 at 4 to 384 kHz."""
    return 1 <= channels <= MAX_CHANNELS and RATE_RANGE_HZ[0] <= rate_hz <= RATE_RANGE_HZ[1]


class Phase(StrEnum):
    """Where in its input a reader stands."""

    START = "start"
    CHUNK = "chunk"
    FORMAT = "format"
    SIZES = "sizes"
    SKIP = "skip"
    DATA = "data"
    AFTER = "after"
    TRAILER = "trailer"
    RAW = "raw"


@dataclass(slots=True)
class WavReader:
    """The reader of one source. `raw` is the format of headerless PCM; `chunk_mode` that of the session.

    `held` is what the last message left: part of a header, or of a sample frame. `left` is how many bytes of the
    current sub-chunk are still to come, None where nobody knows; `long_size` is the data size that ds64 told.
    """

    raw: PcmFormat
    chunk_mode: str = "auto"
    phase: Phase = Phase.START
    format: PcmFormat | None = None
    held: bytes = b""
    left: int | None = None
    long_size: int | None = None
    is_padded: bool = False
    _input: bytes = field(default=b"", repr=False)
    _at: int = field(default=0, repr=False)
    _began_here: bool = field(default=False, repr=False)
    _out: list[Samples] = field(default_factory=list, repr=False)

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON; the inverse of `restore`. It is bounded, whatever came."""
        return {
            "phase": self.phase.value,
            "format": [self.format.encoding, self.format.sample_rate, self.format.channels] if self.format else None,
            "held": self.held.hex(),
            "left": self.left,
            "long_size": self.long_size,
            "is_padded": self.is_padded,
        }

    @classmethod
    def restore(cls, raw: PcmFormat, chunk_mode: str, state: dict[str, Any]) -> "WavReader":
        """Takes the session's parameters and what `state` returned; returns the reader as it was."""
        return cls(
            raw,
            chunk_mode,
            Phase(state["phase"]),
            PcmFormat(*state["format"]) if state["format"] else None,
            bytes.fromhex(state["held"]),
            state["left"],
            state["long_size"],
            state["is_padded"],
        )

    def feed(self, message: bytes) -> list[Samples]:
        """Takes one message; returns its sample frames in order, the part of a frame that was held first.

        Raises UndecodableChunk or UnsupportedMedia for a WAV header that can't be followed.
        """
        if self._is_plain(message):
            return [Samples(self.raw, message)] if message else []
        if self.chunk_mode == "files" or (self.chunk_mode == "auto" and sniff(message) is Container.RIFF_WAVE):
            self._restart()
        self._input, self._at, self._began_here, self._out = self.held + message, 0, False, []
        while self._step():
            pass
        self.held, self._input = self._input[self._at :], b""
        if self.chunk_mode != "files":
            return self._out
        if self.is_in_header:
            raise UndecodableChunk("The WAV file ends before its samples.")
        return self._out + self.flush()

    @property
    def is_in_header(self) -> bool:
        """Whether a WAV file has begun, and its samples have not."""
        return self.phase in (Phase.CHUNK, Phase.FORMAT, Phase.SIZES, Phase.SKIP)

    def flush(self) -> list[Samples]:
        """Returns what is held at the end of a source: fewer than 12 bytes with which a WAV file could have begun.

        A part of a sample frame that nothing completed is dropped: there is no such sample.
        """
        whole = len(self.held) // self.raw.frame_bytes * self.raw.frame_bytes if self.phase is Phase.START else 0
        rest = [Samples(self.raw, self.held[:whole])] if whole else []
        self._restart()
        return rest

    def _is_plain(self, message: bytes) -> bool:
        """Whether the message is whole frames of raw PCM: the case that has to be fast."""
        if self.phase is not Phase.RAW or self.held or len(message) % self.raw.frame_bytes:
            return False
        return self.chunk_mode == "stream" or message[:4] not in (b"RIFF", b"RF64")

    def _restart(self) -> None:
        self.phase, self.format, self.held = Phase.START, None, b""
        self.left = self.long_size = None
        self.is_padded = False

    def _step(self) -> bool:
        """Takes one step in the input; returns whether another may follow, False when more input is needed."""
        match self.phase:
            case Phase.START:
                return self._start()
            case Phase.CHUNK:
                return self._chunk()
            case Phase.FORMAT | Phase.SIZES:
                return self._body()
            case Phase.SKIP | Phase.TRAILER:
                return self._skip()
            case Phase.DATA:
                return self._data()
            case Phase.AFTER:
                return self._after()
            case Phase.RAW:
                return self._frames(self.raw, len(self._input) - self._at)

    def _peek(self, size_bytes: int) -> bytes | None:
        taken = self._input[self._at : self._at + size_bytes]
        return taken if len(taken) == size_bytes else None

    def _start(self) -> bool:
        head = self._input[self._at : self._at + _RIFF_HEAD_BYTES]
        if not head:
            return False
        if not _may_be_riff(head):
            self.phase = Phase.RAW
            return True
        if len(head) < _RIFF_HEAD_BYTES:
            return False
        self._at += _RIFF_HEAD_BYTES
        self._restart()
        self.phase, self._began_here = Phase.CHUNK, True
        return True

    def _chunk(self) -> bool:
        head = self._peek(8)
        if head is None:
            return False
        self._at += 8
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data":
            self._enter_data(size)
        elif name in (b"fmt ", b"ds64"):
            if size > _MAX_FORMAT_BYTES:
                raise UndecodableChunk("The WAV header is damaged: its format is far too large.")
            self.phase, self.left = Phase.FORMAT if name == b"fmt " else Phase.SIZES, size + size % 2
        elif all(32 <= byte < 127 for byte in name):
            self.phase, self.left = Phase.SKIP, size + size % 2
        else:
            raise UndecodableChunk("The WAV header is damaged: a sub-chunk has no readable name.")
        return True

    def _enter_data(self, size: int) -> None:
        if self.format is None:
            raise UndecodableChunk("The WAV file has data before it says of which format.")
        if size == 0xFFFFFFFF and self.long_size is not None:
            size = self.long_size
        self.phase, self.is_padded = Phase.DATA, bool(size % 2)
        self.left = None if size in _UNKNOWN_SIZES else size

    def _body(self) -> bool:
        size = self.left or 0
        kept = min(size, _DS64_BYTES if self.phase is Phase.SIZES else _FORMAT_BYTES)
        body = self._peek(kept)
        if body is None:
            return False
        if self.phase is Phase.FORMAT:
            self.format = parse_format(body)
        elif kept == _DS64_BYTES:
            self.long_size = int.from_bytes(body[8:16], "little")
        self._at += kept
        self.phase, self.left = Phase.SKIP, size - kept
        return True

    def _skip(self) -> bool:
        left = self.left or 0
        skipped = min(left, len(self._input) - self._at)
        self._at += skipped
        self.left = left - skipped
        if self.left:
            return False
        self.phase = Phase.CHUNK if self.phase is Phase.SKIP else Phase.AFTER
        return True

    def _data(self) -> bool:
        pcm, available = self.format or self.raw, len(self._input) - self._at
        self._frames(pcm, available if self.left is None else min(available, self.left))
        if self.left is None or self.left >= pcm.frame_bytes or len(self._input) - self._at < self.left:
            return False
        self._at += self.left
        self.phase = Phase.AFTER
        return True

    def _frames(self, pcm: PcmFormat, available: int) -> bool:
        if whole := available - available % pcm.frame_bytes:
            self._out.append(Samples(pcm, self._input[self._at : self._at + whole]))
            self._at += whole
            self.left = None if self.left is None else self.left - whole
        return False

    def _after(self) -> bool:
        """Behind the data. What follows in the same message as the whole file is skipped up to another file; a
        stream that came in slices is followed by sub-chunks of known names, or is over."""
        if self.is_padded and self._at < len(self._input):
            self.is_padded = False
            # Some writers leave the pad byte out.
            self._at += self._input[self._at] == 0
        head = self._input[self._at : self._at + 8]
        if self._began_here and not head.startswith((b"RIFF", b"RF64")):
            self._at = len(self._input)
            self._restart()
            return False
        if head[:4] in _TRAILERS and len(head) == 8:
            size = int.from_bytes(head[4:], "little")
            self.phase, self.left = Phase.TRAILER, size + size % 2
            self._at += 8
            return True
        if len(head) < 8 and any(name.startswith(head[:4]) for name in _TRAILERS):
            return False
        self._restart()
        return True


def _may_be_riff(head: bytes) -> bool:
    """Whether `head`, of up to 12 bytes, can be how a WAV file begins."""
    magic = head[:4]
    return (b"RIFF".startswith(magic) or b"RF64".startswith(magic)) and b"WAVE".startswith(head[8:])


def header(pcm: PcmFormat, data_bytes: int) -> bytes:
    """Takes the format and the size of the data; returns the 80 bytes that stand before it.

    A reserved JUNK chunk becomes ds64, and RIFF becomes RF64, when a size does not fit 32 bits (EBU Tech 3306).
    """
    sample_bytes = SAMPLE_BYTES[pcm.encoding]
    tag = 3 if pcm.encoding.startswith("f") else 1
    rates = (pcm.sample_rate, pcm.sample_rate * pcm.frame_bytes, pcm.frame_bytes, sample_bytes * 8)
    riff_bytes = HEADER_BYTES - 8 + data_bytes + data_bytes % 2
    if riff_bytes > 0xFFFFFFFF:
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, riff_bytes, data_bytes, data_bytes // pcm.frame_bytes, 0)
        name, riff_bytes, data_bytes = b"RF64", 0xFFFFFFFF, 0xFFFFFFFF
    else:
        sizes, name = struct.pack("<4sI28x", b"JUNK", 28), b"RIFF"
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, pcm.channels, *rates)
    return struct.pack("<4sI4s", name, riff_bytes, b"WAVE") + sizes + form + struct.pack("<4sI", b"data", data_bytes)
