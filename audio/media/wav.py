"""PURE. WAV: an incremental reader of messages in pieces of any size, and the header of the master files.

`WavReader` reads the messages of one source. Under `format=wav` these are raw PCM, whole WAV files, or slices of a WAV
stream. The reader returns `Samples`: whole sample frames with their format. If it cannot parse a file, it returns a
`Fault` instead, and continues after that file. It opens no files. Its state is JSON, so that it can be stored in the
database between two windows.

The specifications are "Multimedia Programming Interface and Data Specifications 1.0" for RIFF/WAVE, Microsoft's
"Multiple Channel Audio Data and WAVE Files" for WAVE_FORMAT_EXTENSIBLE, EBU Tech 3306 for RF64 and ds64, and ITU-R
BS.2088 for BW64.

Sizes in headers are often wrong, so the reader compares them with the bytes that follow:

- The data chunk ends at its declared size. Another sub-chunk, another file, or raw PCM may follow.
- A size of zero, all ones, or about 2 or 4 GiB is the placeholder of a recorder that did not know the size.
- Samples that continue after their declared end are kept, with a warning unless the size was a placeholder.
- A complete header within the samples is that of another recorder, because PCM does not contain one by chance.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from audio.errors import MediaError, UndecodableChunkError, UnsupportedMediaError

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
AUDIO_DROPPED = "audio_dropped"
SIZE_EXCEEDED = "wav_size_exceeded"
_RIFF_HEAD_BYTES = 12
_CHUNK_HEAD_BYTES = 8
_STRONG_BYTES = _RIFF_HEAD_BYTES + _CHUNK_HEAD_BYTES
_MAX_FORMAT_BYTES = 1 << 16
_MAX_FIRST_CHUNK_BYTES = 1 << 28
# Of a sub-chunk outside of the RIFF, where no size of the header bears it out.
_MAX_STRAY_CHUNK_BYTES = 1 << 24
# So much behind the declared end is no junk any more: the size was wrong.
_JUNK_BYTES = 1 << 10
_DETAIL_CHARACTERS = 200
# What live encoders write where they don't know a size is nothing, or close to the largest of 31 or 32 bits.
_PLACEHOLDERS = (range(1), range(0x7FFF0000, 0x80010000), range(0xFFFF0000, 1 << 32))
_LARGEST_SIZE = 1 << 62
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_ENCODINGS = {
    (_PCM, 1): "u8",
    (_PCM, 2): "s16le",
    (_PCM, 3): "s24le",
    (_PCM, 4): "s32le",
    (_FLOAT, 4): "f32le",
    (_FLOAT, 8): "f64le",
    (_ALAW, 1): "alaw",
    (_MULAW, 1): "mulaw",
}
_CODECS = {2: "Microsoft ADPCM", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x50: "MPEG audio", 0x55: "MP3", 0x161: "WMA"}
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_SHORT_FORMAT_BYTES = 14
_FORMAT_BYTES = 40
_DS64_BYTES = 28
_MAGICS = (b"RIFF", b"RF64", b"BW64", b"RIFX")
# The sub-chunks that real files carry behind their data, some of them outside of the RIFF.
_TRAILERS = {
    *(b"LIST", b"id3 ", b"ID3 ", b"JUNK", b"junk", b"PAD ", b"FLLR", b"fact", b"cue ", b"plst", b"smpl", b"inst"),
    *(b"bext", b"iXML", b"axml", b"_PMX", b"acid", b"DISP", b"afsp", b"cart", b"PEAK", b"chna", b"levl", b"MD5 "),
}
_KNOWN = {*_TRAILERS, b"fmt ", b"data", b"ds64"}
# A FOURCC: printable ASCII, filled up with spaces at the end.
_CHUNK_ID = re.compile(rb"[!-~]{1,4} {0,3}")
_PLAIN_ID = re.compile(rb"[A-Za-z0-9_]{1,4} {0,3}")


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


@dataclass(frozen=True, slots=True)
class Fault:
    """A part of the input that is not in the samples, or that the reader has interpreted by a guess.

    Attributes:
        error: Why a file cannot be decoded; None for a warning.
        code: The code of the error or the warning.
        detail: The sentence for people.
        first_sequence: The message in which it begins. A fault that continues is returned again with each message.
        last_sequence: The last message that it affects so far.
        is_new: Whether it is returned for the first time.
    """

    error: MediaError | None
    code: str
    detail: str
    first_sequence: int
    last_sequence: int
    is_new: bool = True


def parse_format(body: bytes) -> PcmFormat:
    """Return the format that the body of a `fmt ` chunk describes.

    Args:
        body: The body, or its first 40 bytes.

    Returns:
        The format of the samples.

    Raises:
        UndecodableChunkError: The body contradicts itself.
        UnsupportedMediaError: It is sane but not PCM, float, mu-law or A-law of 1 to 8 channels at 4 to 384 kHz.
    """
    if len(body) < _SHORT_FORMAT_BYTES:
        raise UndecodableChunkError("The format chunk of the WAV header is too short.")
    tag, channels, rate_hz, bytes_per_second, frame_bytes = struct.unpack_from("<HHIIH", body)
    # The oldest form ends before the bits.
    bits = struct.unpack_from("<H", body, 14)[0] if len(body) > _SHORT_FORMAT_BYTES + 1 else 8
    if tag == _EXTENSIBLE:
        if len(body) < _FORMAT_BYTES or body[26:40] != _GUID_TAIL:
            raise UnsupportedMediaError("The extensible format of the WAV header does not describe audio samples.")
        # Of so many bits as it says are valid, left-justified: the container decides.
        tag = struct.unpack_from("<H", body, 24)[0]
    if not is_recordable(channels, rate_hz):
        raise UnsupportedMediaError(f"A WAV file with {channels} channels at {rate_hz} Hz can't be recorded.")
    if tag in (_ALAW, _MULAW):
        return PcmFormat(_ENCODINGS[tag, 1], rate_hz, channels)
    if tag not in (_PCM, _FLOAT):
        raise UnsupportedMediaError(
            f"A WAV file with {_CODECS.get(tag, f'format tag {tag}')} can't be recorded. Send PCM instead."
        )
    sample_bytes = _sample_bytes(bits, channels, frame_bytes, bytes_per_second == rate_hz * frame_bytes)
    encoding = _ENCODINGS.get((tag, sample_bytes))
    if encoding is None:
        raise UnsupportedMediaError(f"A WAV file with format tag {tag} and {bits} bits per sample can't be recorded.")
    return PcmFormat(encoding, rate_hz, channels)


def _sample_bytes(bits: int, channels: int, frame_bytes: int, is_rate_consistent: bool) -> int:
    """Return the bytes of a sample.

    Whole bytes of `bits` win over a frame size that contradicts them, as in players: recorders often leave the frame
    size of another format in the header. Other numbers of bits stand left-justified in a container.
    """
    needed, container = (bits + 7) // 8, frame_bytes // channels if frame_bytes % channels == 0 else 0
    if container in (0, needed):
        return needed
    if not bits or (bits % 8 and container == needed + 1 and is_rate_consistent):
        return container
    # 24 bits in four bytes are integers, floats, or in truth packed in three, by the program that wrote them.
    if bits % 8 or (needed, container) == (3, 4):
        raise UndecodableChunkError(
            f"The WAV header contradicts itself: it has {bits} bits per sample in {container} bytes."
        )
    return needed


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


_IN_HEADER = (Phase.CHUNK, Phase.FORMAT, Phase.SIZES, Phase.SKIP)


@dataclass(slots=True)
class Accounted:
    """The numbers of bytes of the input by their kind. With the held bytes, their sum is the size of the input.

    `dropped_bytes` counts by the reason: `partial_frame` is less than a sample frame at an end, `undecodable` is the
    samples of files that cannot be decoded, and `behind_the_end` is bytes after a file that are neither sound nor a
    sub-chunk.
    """

    sample_bytes: int = 0
    structure_bytes: int = 0
    dropped_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return self.sample_bytes + self.structure_bytes + sum(self.dropped_bytes.values())


@dataclass(slots=True)
class _File:
    """The file that a reader is reading.

    Attributes:
        format: The format of its samples; None while it is unknown.
        position: The number of its bytes that were read.
        end: The end of its RIFF chunk by its header; None if the header does not declare it.
        long_size: The data size in ds64.
        first_sequence: The message in which it began.
        last_sequence: The message that contained its last byte so far.
        is_whole: Whether one message contains it up to the end of its data, and nothing before it.
        is_live: Whether the data size is a placeholder, so that more samples may follow.
        fault: The code and the sentence if it cannot be decoded. Its samples are then dropped.
        is_told: Whether its fault has been returned.
    """

    format: PcmFormat | None = None
    position: int = 0
    end: int | None = None
    long_size: int | None = None
    first_sequence: int = 0
    last_sequence: int = 0
    is_whole: bool = False
    is_live: bool = False
    fault: tuple[str, str] | None = None
    is_told: bool = False

    def state(self) -> dict[str, Any]:
        pcm = self.format
        return {
            "format": [pcm.encoding, pcm.sample_rate, pcm.channels] if pcm else None,
            **{name: getattr(self, name) for name in self.__slots__ if name != "format"},
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "_File":
        pcm, fault = state["format"], state.get("fault")
        return cls(**{**state, "format": PcmFormat(*pcm) if pcm else None, "fault": tuple(fault) if fault else None})

    @property
    def room(self) -> int:
        """The bytes up to the end that its header says, 0 if there are none, or it does not say."""
        return max(0, (self.end or 0) - self.position)


@dataclass(slots=True)
class WavReader:
    """The reader of one source.

    Attributes:
        raw: The format of headerless PCM.
        chunk_mode: The chunk mode of the session.
        held: The rest of the last message: a part of a header or of a sample frame, or perhaps junk after a file.
        left: The number of bytes of the current sub-chunk that are still to come; None if it is unknown.
        accounted: The numbers of bytes by their kind.
    """

    raw: PcmFormat
    chunk_mode: str = "auto"
    phase: Phase = Phase.START
    held: bytes = b""
    left: int | None = None
    is_padded: bool = False
    accounted: Accounted = field(default_factory=Accounted)
    _file: _File = field(default_factory=_File)
    # Whether what is held begins a message, and which message it is of.
    _is_held_edge: bool = False
    _held_sequence: int = 0
    _input: bytes = field(default=b"", repr=False)
    _at: int = field(default=0, repr=False)
    # Where in the input the new message begins, and its number.
    _joint: int = field(default=0, repr=False)
    _sequence: int = field(default=0, repr=False)
    _is_final: bool = field(default=False, repr=False)
    _is_searching: bool = field(default=True, repr=False)
    _out: list[Samples | Fault] = field(default_factory=list, repr=False)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON; the inverse of `restore`. It is bounded, whatever came."""
        return {
            "phase": self.phase.value,
            "held": self.held.hex(),
            "left": self.left,
            "is_padded": self.is_padded,
            "file": self._file.state(),
            "is_held_edge": self._is_held_edge,
            "held_sequence": self._held_sequence,
            "accounted": {
                "sample_bytes": self.accounted.sample_bytes,
                "structure_bytes": self.accounted.structure_bytes,
                "dropped_bytes": dict(self.accounted.dropped_bytes),
            },
        }

    @classmethod
    def restore(cls, raw: PcmFormat, chunk_mode: str, state: dict[str, Any]) -> "WavReader":
        """Return the reader as it was when `state` gave this."""
        return cls(
            raw,
            chunk_mode,
            Phase(state["phase"]),
            bytes.fromhex(state["held"]),
            state["left"],
            state["is_padded"],
            Accounted(**state.get("accounted", {})),
            # Of a version before 1.1 the state has the file's fields at the top.
            _File.restore(state.get("file", {"format": state.get("format"), "long_size": state.get("long_size")})),
            state.get("is_held_edge", False),
            state.get("held_sequence", 0),
        )

    @property
    def format(self) -> PcmFormat | None:
        """The format of the file that is being read, None while unknown."""
        return self._file.format

    @property
    def fed_bytes(self) -> int:
        """All that it was fed: what is accounted for, and what is held."""
        return self.accounted.total_bytes + len(self.held)

    @property
    def is_in_header(self) -> bool:
        """Whether a WAV file has begun, and its samples have not."""
        return self.phase in _IN_HEADER

    def feed(self, message: bytes) -> list[Samples]:
        """Read the next piece of a file that is well-formed by itself: one of ours, or FFmpeg's output.

        A header inside its samples is samples.

        Raises:
            UndecodableChunkError: Its header can't be followed.
            UnsupportedMediaError: It is not PCM.
        """
        self._is_searching = False
        return self._strict(self.read(message))

    def flush(self) -> list[Samples]:
        """Return what `finish` does, for a file that was read by `feed`."""
        self._is_searching = False
        return self._strict(self.finish())

    @staticmethod
    def _strict(entries: list[Samples | Fault]) -> list[Samples]:
        for entry in entries:
            if isinstance(entry, Fault) and entry.error is not None:
                raise entry.error
        return [entry for entry in entries if isinstance(entry, Samples)]

    def read(self, message: bytes, sequence: int = 0) -> list[Samples | Fault]:
        """Read one message.

        Args:
            message: The message.
            sequence: Its number, for the faults.

        Returns:
            Its sample frames in order, the part of a frame that was held first, and between them what is wrong.
        """
        if self._is_plain(message):
            self.accounted.sample_bytes += len(message)
            return [Samples(self.raw, message)] if message else []
        self._out, self._sequence = [], sequence
        if self.chunk_mode == "auto" and _is_file_head(message):
            self._end()
        if not self.held:
            self._is_held_edge, self._held_sequence = True, sequence
        self._input, self._at, self._joint = self.held + message, 0, len(self.held)
        self._run()
        if self.chunk_mode == "files":
            self._end()
        self._tell_fault()
        return self._taken()

    def finish(self) -> list[Samples | Fault]:
        """Return what is held at the end of a source.

        A part of a sample frame that nothing completed is dropped: there is no such sample.
        """
        self._out = []
        self._end()
        return self._taken()

    def interrupt(self) -> list[Samples | Fault]:
        """Return the sample frames that are held because a header may begin in them.

        Another source goes on, whose samples come behind them.
        """
        pcm = self.raw if self.phase is Phase.RAW else self._file.format
        if self.phase not in (Phase.RAW, Phase.DATA) or pcm is None or self._file.fault is not None:
            return []
        held_bytes = len(self.held)
        if held_bytes < pcm.frame_bytes:
            return []
        self._out = []
        self._input, self._at, self._joint, self._is_final = self.held, 0, held_bytes, True
        self._frames(pcm, held_bytes if self.left is None else min(held_bytes, self.left))
        self._is_held_edge = False
        self.held, self._input, self._at, self._joint, self._is_final = self._input[self._at :], b"", 0, 0, False
        return self._taken()

    def _taken(self) -> list[Samples | Fault]:
        out, self._out = self._out, []
        return out

    def _run(self) -> None:
        """Take steps until more input is needed; hold the rest."""
        while self._step():
            pass
        if self._at >= self._joint:
            self._is_held_edge, self._held_sequence = self._at == self._joint, self._sequence
        elif self._at:
            self._is_held_edge = False
        self.held, self._input, self._at, self._joint = self._input[self._at :], b"", 0, 0

    def _end(self) -> None:
        """Nothing that belongs to what is held will follow."""
        self._input, self._at, self._joint, self._is_final = self.held, 0, len(self.held), True
        while self._step():
            pass
        if self.is_in_header:
            self._structure(self._available())
            self._fail(UndecodableChunkError("The WAV file ends before its samples."))
        self._drop(self._available(), "partial_frame")
        self._restart()
        self.held, self._input, self._at, self._joint, self._is_final = b"", b"", 0, 0, False

    def _is_plain(self, message: bytes) -> bool:
        """Whether the message is whole frames of raw PCM: the case that has to be fast."""
        if self.phase is not Phase.RAW or self.held or len(message) % self.raw.frame_bytes:
            return False
        if self.chunk_mode == "files" or (self.chunk_mode == "auto" and message[:4] in _MAGICS):
            return False
        tail = message[1 - _STRONG_BYTES :]
        return not self._is_searching or not (b"R" in tail or b"B" in tail or b"WAVE" in message)

    def _restart(self) -> None:
        """Stand behind a file."""
        self._tell_fault()
        self.phase, self.left, self.is_padded, self._file = Phase.START, None, False, _File()

    # Accounting: every byte goes through one of these.

    def _give(self, pcm: PcmFormat, size_bytes: int) -> None:
        if size_bytes:
            self._out.append(Samples(pcm, self._input[self._at : self._at + size_bytes]))
            self._pass(size_bytes)
            self.accounted.sample_bytes += size_bytes

    def _structure(self, size_bytes: int) -> None:
        self._pass(size_bytes)
        self.accounted.structure_bytes += size_bytes

    def _drop(self, size_bytes: int, reason: str) -> None:
        if size_bytes:
            self._pass(size_bytes)
            dropped = self.accounted.dropped_bytes
            dropped[reason] = dropped.get(reason, 0) + size_bytes

    def _pass(self, size_bytes: int) -> None:
        if size_bytes:
            self._at += size_bytes
            self._file.position += size_bytes
            self._file.last_sequence = self._sequence if self._at > self._joint else self._held_sequence

    # Faults

    def _fail(self, error: MediaError) -> None:
        """The file can't be decoded: its samples will be dropped, as far as it goes. The first reason stands."""
        if self._file.fault is None:
            self._file.fault = error.code, error.detail[:_DETAIL_CHARACTERS]

    def _tell_fault(self) -> None:
        if self._file.fault is not None:
            code, detail = self._file.fault
            kind = UnsupportedMediaError if code == UnsupportedMediaError.code else UndecodableChunkError
            first = self._file.first_sequence
            error, is_new = kind(detail, sequence=first), not self._file.is_told
            self._out.append(Fault(error, code, detail, first, self._file.last_sequence, is_new))
            self._file.is_told = True

    @property
    def _here(self) -> int:
        """The number of the message that the next byte is of."""
        return self._held_sequence if self._at < self._joint else self._sequence

    # Steps

    def _step(self) -> bool:
        """Take one step in the input; return whether another may follow, False when more input is needed."""
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

    def _available(self, at: int | None = None) -> int:
        return len(self._input) - (self._at if at is None else at)

    def _start(self) -> bool:
        head = self._input[self._at : self._at + _RIFF_HEAD_BYTES]
        if not head:
            return False
        if not _may_be_file(head) or (self._is_final and len(head) < _RIFF_HEAD_BYTES):
            self.phase = Phase.RAW
            return True
        if len(head) < _RIFF_HEAD_BYTES:
            return False
        self._begin(head)
        return True

    def _begin(self, head: bytes) -> None:
        is_message = self.chunk_mode != "stream" and self._at == self._joint
        self._file = _File(first_sequence=self._here, is_whole=is_message)
        self._structure(_RIFF_HEAD_BYTES)
        size = int.from_bytes(head[4:8], "big" if head[:4] == b"RIFX" else "little")
        self._file.end = None if _is_placeholder(size) else 8 + size
        self.phase = Phase.CHUNK
        if head[:4] == b"RIFX":
            self._fail(
                UnsupportedMediaError("A big-endian WAV file (RIFX) can't be recorded. Send a RIFF file instead.")
            )
            self._lose()

    def _lose(self) -> None:
        """The rest of the file can't be followed: drop it, up to the end of its RIFF or the next file."""
        self.phase, self.is_padded = Phase.DATA, False
        self.left, self._file.is_live = self._file.room or None, not self._file.room

    def _chunk(self) -> bool:
        pad = self._pad_bytes(self._at)
        if pad is None:
            return False
        self._structure(pad)
        self.is_padded = False
        head = self._input[self._at : self._at + _CHUNK_HEAD_BYTES]
        if self._is_over(head[:4]):
            self._fail(UndecodableChunkError("The WAV file has no samples."))
            self._restart()
            return True
        if len(head) < _CHUNK_HEAD_BYTES:
            return False
        if head[:4] in _MAGICS and self._is_file_at(self._at) is not False:
            return self._cut_off()
        self._enter_chunk(head[:4], int.from_bytes(head[4:], "little"))
        return True

    def _enter_chunk(self, name: bytes, size: int) -> None:
        if name == b"data":
            self._enter_data(size)
        elif not _CHUNK_ID.fullmatch(name):
            self._fail(UndecodableChunkError("The WAV header is damaged: a sub-chunk has no readable name."))
            self._lose()
        elif name in (b"fmt ", b"ds64") and size > _MAX_FORMAT_BYTES:
            self._fail(UndecodableChunkError("The WAV header is damaged: its format chunk is too large."))
            self._lose()
        else:
            self._structure(_CHUNK_HEAD_BYTES)
            self.phase = {b"fmt ": Phase.FORMAT, b"ds64": Phase.SIZES}.get(name, Phase.SKIP)
            self.left, self.is_padded = size, bool(size % 2)

    def _is_over(self, name: bytes) -> bool:
        """Whether the RIFF has ended, by its size, before any data; a size that is too small is not believed."""
        end = self._file.end
        return end is not None and self._file.position >= end and not any(known.startswith(name) for known in _KNOWN)

    def _cut_off(self) -> bool:
        """Where a sub-chunk should be another file begins, or may begin."""
        if self._is_file_at(self._at) is None:
            return False
        self._fail(UndecodableChunkError("The WAV file ends before its samples."))
        self._restart()
        return True

    def _pad_bytes(self, at: int) -> int | None:
        """Return whether a pad byte stands there, behind a sub-chunk of odd size; None if that can't be told yet.

        Some writers leave it out, and some fill it with anything.
        """
        if not self.is_padded:
            return 0
        head = self._input[at : at + 5]
        if not head or (head[0] and len(head) < 5):
            return 0 if self._is_final else None
        names = {*_KNOWN, *_MAGICS}
        return int(not head[0] or (head[:4] not in names and head[1:] in names))

    def _enter_data(self, size: int) -> None:
        file = self._file
        if size in (0, 0xFFFFFFFF) and file.long_size is not None:
            size = file.long_size
        self._structure(_CHUNK_HEAD_BYTES)
        if file.format is None and file.fault is None:
            self._fail(UndecodableChunkError("The WAV file has data before its format chunk."))
        self.phase, self.left, self.is_padded, file.is_live = Phase.DATA, size, bool(size % 2), False
        if not _is_placeholder(size) and size < _LARGEST_SIZE:
            return
        file.is_live, self.is_padded = True, False
        # Nothing, where the RIFF says the same: sub-chunks may follow, or the samples that nobody had counted.
        self.left = 0 if not size and file.end is not None else None

    def _body(self) -> bool:
        size = self.left or 0
        kept = min(size, _DS64_BYTES if self.phase is Phase.SIZES else _FORMAT_BYTES)
        if self._available() < kept:
            return False
        body = self._input[self._at : self._at + kept]
        if self.phase is Phase.SIZES:
            self._read_sizes(body)
        else:
            try:
                self._file.format = parse_format(body)
            except MediaError as error:
                self._fail(error)
        self._structure(kept)
        self.phase, self.left = Phase.SKIP, size - kept
        return True

    def _read_sizes(self, body: bytes) -> None:
        if len(body) == _DS64_BYTES:
            riff_bytes, self._file.long_size = struct.unpack_from("<QQ", body)
            if self._file.end is None and not _is_placeholder(riff_bytes) and riff_bytes < _LARGEST_SIZE:
                self._file.end = 8 + riff_bytes

    def _skip(self) -> bool:
        left = self.left or 0
        skipped = min(left, self._available())
        self._structure(skipped)
        self.left = left - skipped
        if self.left:
            return False
        self.phase = Phase.CHUNK if self.phase is Phase.SKIP else Phase.AFTER
        return True

    def _data(self) -> bool:
        pcm, available = self._file.format, self._available()
        limit = available if self.left is None else min(available, self.left)
        if self._file.fault is not None or pcm is None:
            return self._lost(limit)
        return self._frames(pcm, limit)

    def _has_ended(self, frame_bytes: int) -> bool:
        """Whether the data have come to their declared end; what is `left` then is part of a frame."""
        if self.phase is not Phase.DATA or self.left is None or self.left >= frame_bytes:
            return False
        if self._available() < self.left:
            return False
        self.phase = Phase.AFTER
        self._file.is_whole = self._file.is_whole and self._file.position <= self._at - self._joint
        return True

    def _lost(self, limit: int) -> bool:
        """Drop up to `limit` bytes of samples that can't be decoded."""
        end = self._at + limit
        found, cut = self._search(limit)
        dropped = cut - self._at
        self._drop(dropped, "undecodable")
        self.left = None if self.left is None else self.left - dropped
        if found:
            self._restart()
        return found or (cut == end and self._has_ended(1))

    def _frames(self, pcm: PcmFormat, limit: int) -> bool:
        """Give whole frames of up to `limit` bytes, up to where another file begins, or may begin."""
        end = self._at + limit
        found, cut = self._search(limit)
        whole = (cut - self._at) // pcm.frame_bytes * pcm.frame_bytes
        self._give(pcm, whole)
        self.left = None if self.left is None else self.left - whole
        if found:
            self._drop(cut - self._at, "partial_frame")
            self._restart()
        return found or (cut == end and self._has_ended(pcm.frame_bytes))

    def _search(self, limit: int) -> tuple[bool, int]:
        """Look for the header of another file.

        Returns:
            Whether one is there, and where in the input it begins, or at the end of the input may begin, or else
            where the `limit` bytes end.
        """
        end = self._at + limit
        if not self._is_searching:
            return False, end
        at = self._input.find(b"WAVE", self._at + 8)
        while 0 <= at - 8 < end:
            if _is_strong(self._input[at - 8 : at - 8 + _STRONG_BYTES], self._is_final):
                return True, at - 8
            at = self._input.find(b"WAVE", at + 1)
        tail = max(self._at, len(self._input) - _STRONG_BYTES + 1)
        for begun in () if self._is_final else _candidates(self._input, tail):
            if begun < end:
                return False, begun
        return False, end

    # Behind the data

    def _after(self) -> bool:
        """Handle what follows the data, of which `left` bytes are part of a frame.

        It may be a sub-chunk, another file, raw PCM, or more of the samples.
        """
        pad = self._data_pad_bytes()
        if pad is None:
            return False
        at = self._at + (self.left or 0) + pad
        if at >= len(self._input):
            if self._is_final:
                self._leave_data(pad)
            return False
        is_file, size = self._is_file_at(at), self._chunk_at(at)
        if not self._is_final and (is_file is None or (not is_file and size is None)):
            return False
        if is_file:
            self._leave_data(pad)
            self._restart()
        elif size is not None and size >= 0:
            self._leave_data(pad)
            self._trailer(size)
        else:
            return self._beyond(at, pad)
        return True

    def _data_pad_bytes(self) -> int | None:
        """Return whether a pad byte follows the data; None if that can't be told yet."""
        partial = self.left or 0
        at = self._at + partial
        if not self._is_edge(at) or (self._file.room > partial and not self._file.is_whole):
            return self._pad_bytes(at)
        # The file may have ended with its message, and the byte may be the first of raw PCM.
        if not self.is_padded or self._input[at : at + 1] not in (b"", b"\0"):
            return 0
        if at == self._joint and self._available(at) == 1 and self._file.room > partial:
            return 1
        is_file, size = self._is_file_at(at + 1), self._chunk_at(at + 1)
        if not self._is_final and (is_file is None or (not is_file and size is None)):
            return None
        return int(bool(is_file) or (size is not None and size >= 0))

    def _leave_data(self, pad: int) -> None:
        """Nothing of the samples will follow: drop the part of a frame, and skip the pad byte."""
        self._drop(self.left or 0, "partial_frame")
        self._structure(pad)
        self.left, self.is_padded = 0, False

    def _trailer(self, size: int) -> None:
        """Skip a sub-chunk behind the data; a second one of data is more of the samples."""
        if self._input[self._at : self._at + 4] == b"data":
            self._enter_data(size)
            return
        self._file.is_live = False
        self._structure(_CHUNK_HEAD_BYTES)
        self.phase, self.left, self.is_padded = Phase.TRAILER, size, bool(size % 2)

    def _is_edge(self, at: int) -> bool:
        """Whether a message begins at this place of the input, in a mode in which that means something."""
        return self.chunk_mode != "stream" and (at == self._joint or (at == 0 and self._is_held_edge))

    def _is_file_at(self, at: int) -> bool | None:
        """Whether a file begins there, None if that can't be told yet."""
        head = self._input[at : at + _RIFF_HEAD_BYTES]
        if not _may_be_file(head):
            return False
        return True if len(head) == _RIFF_HEAD_BYTES else None

    def _chunk_at(self, at: int) -> int | None:
        """Return the size of the sub-chunk that begins there, -1 if none does, None if that can't be told yet."""
        head = self._input[at : at + _CHUNK_HEAD_BYTES]
        name = head[:4]
        if name in _MAGICS or (name and not _CHUNK_ID.fullmatch(name)):
            return -1
        most = self._most_chunk_bytes(name, at)
        if most < 0:
            return -1
        if len(head) < _CHUNK_HEAD_BYTES:
            return None
        size = int.from_bytes(head[4:], "little")
        return size if size <= most else -1

    def _most_chunk_bytes(self, name: bytes, at: int) -> int:
        """Return how large a sub-chunk of that name, or of one that begins so, can be there; -1 if it is none."""
        # A writer may have left the last pad byte out of the RIFF's size.
        most = self._room(at) - _CHUNK_HEAD_BYTES + 1
        if self._file.is_whole and not self._is_edge(at):
            most = max(most, self._available(at) - _CHUNK_HEAD_BYTES)
        if most >= 0:
            return most
        if any(known.startswith(name) for known in _TRAILERS):
            return _MAX_STRAY_CHUNK_BYTES
        has_no_end = self._file.end is None or self._file.end < self._file.position
        is_plain = not self._file.is_live and _PLAIN_ID.fullmatch(name)
        return _MAX_STRAY_CHUNK_BYTES if has_no_end and is_plain else -1

    def _room(self, at: int) -> int:
        """The bytes from there to the end of the RIFF by its header, negative or 0 if there are none."""
        return 0 if self._file.end is None else self._file.end - self._file.position - (at - self._at)

    def _beyond(self, at: int, pad: int) -> bool:
        """What follows the data is neither a sub-chunk nor a file."""
        file, room = self._file, self._room(at)
        if file.is_live:
            self._go_on(None)
        elif self._is_edge(at) and (file.is_whole or room <= 0):
            # Raw PCM, in a message of its own.
            self._leave_data(pad)
            self._restart()
        elif file.fault is not None:
            self._leave_lost(pad, room)
        elif room >= _JUNK_BYTES:
            self._warn_exceeded()
            self._go_on(file.room)
        elif room > 0 and self._available(at) <= room:
            return self._drop_behind(pad, room)
        else:
            return self._exceed(at, pad)
        return True

    def _go_on(self, size: int | None) -> None:
        """Read more samples of the same format: the declared size was wrong."""
        self.phase, self.left, self.is_padded = Phase.DATA, size, False
        self._file.is_live = size is None

    def _leave_lost(self, pad: int, room: int) -> None:
        """Leave a file that can't be decoded, with the rest of its message."""
        self._leave_data(pad)
        if room > 0:
            self._lose()
            return
        if self.chunk_mode != "stream":
            self._drop(self._search(self._available())[1] - self._at, "undecodable")
        self._restart()

    def _exceed(self, at: int, pad: int) -> bool:
        """Behind the end of a file, in the middle of a message: little is junk, more are samples."""
        found, cut = self._search(self._available())
        if cut - at >= _JUNK_BYTES:
            self._warn_exceeded()
            self._go_on(None)
            return True
        if found or self._is_final or self._file.is_whole:
            return self._drop_behind(pad, cut - at)
        return False

    def _warn_exceeded(self) -> None:
        sentence = "The WAV header declares fewer samples than the file has. All samples were recorded."
        self._out.append(Fault(None, SIZE_EXCEEDED, sentence, self._file.first_sequence, self._sequence))

    def _drop_behind(self, pad: int, size: int) -> bool:
        """Drop what follows a file and is nothing that could be recorded."""
        if self._available() < (self.left or 0) + pad + size and not self._is_final:
            return False
        self._leave_data(pad)
        size = self._search(min(size, self._available()))[1] - self._at
        if size >= (self._file.format.frame_bytes if self._file.format else 1):
            sentence = (
                f"{size} bytes after the samples of a WAV file are neither sound nor a sub-chunk, and were left out."
            )
            self._out.append(Fault(None, AUDIO_DROPPED, sentence, self._file.first_sequence, self._sequence))
        self._drop(size, "behind_the_end")
        if self._file.room <= 0:
            self._restart()
        return True


def _is_placeholder(size: int) -> bool:
    return any(size in sizes for sizes in _PLACEHOLDERS)


def _may_be_file(head: bytes) -> bool:
    """Whether `head`, of up to 12 bytes, can be how a WAV file begins."""
    return any(magic.startswith(head[:4]) for magic in _MAGICS) and b"WAVE".startswith(head[8:12])


def _is_file_head(message: bytes) -> bool:
    """Whether a message begins with a WAV file."""
    return message[:4] in _MAGICS and message[8:12] == b"WAVE"


def _is_strong(head: bytes, is_final: bool) -> bool:
    """Whether `head`, of up to 20 bytes, is the beginning of a WAV file with a first sub-chunk that makes sense."""
    name = head[12:16]
    if not _is_file_head(head) or (len(head) < _STRONG_BYTES and not is_final):
        return False
    if name and not _CHUNK_ID.fullmatch(name):
        return False
    size = int.from_bytes(head[16:20], "little")
    return size <= (_MAX_FORMAT_BYTES if name in (b"fmt ", b"ds64") else _MAX_FIRST_CHUNK_BYTES)


def _candidates(data: bytes, start: int) -> Iterator[int]:
    """Give the places from `start` on where a header may begin that is not complete."""
    for at in range(start, len(data)):
        if data[at] in b"RB" and _may_be_file(data[at : at + _RIFF_HEAD_BYTES]):
            yield at


def header(pcm: PcmFormat, data_bytes: int) -> bytes:
    """Return the 80 bytes that stand before the data of a master.

    A reserved JUNK chunk becomes ds64, and RIFF becomes RF64, when a size does not fit 32 bits (EBU Tech 3306).

    Args:
        pcm: The format of its samples.
        data_bytes: The size of its data.
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
