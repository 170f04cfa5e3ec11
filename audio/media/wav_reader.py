"""PURE. An incremental reader of WAV, in messages of any size.

The reader (`WavReader`) reads the messages of one source. Under `format=wav` these are raw PCM, whole WAV files, or
slices of a WAV stream. It returns `Samples`: whole sample frames with their format. If it cannot follow a file, it
returns a `Fault` instead and continues after that file. Its state is JSON, so that it can be stored in the database
between two windows.

Sizes in headers are often wrong, so the reader compares them with the bytes that follow:

- The data end at their declared size. Another sub-chunk, another file, or raw PCM may follow.
- A size of zero, all ones, or about 2 or 4 GiB is the placeholder of a recorder that did not know the size.
- Samples after their declared end are kept, with a warning unless the size was a placeholder.
- A complete header within the samples is that of another file, because PCM does not contain one by chance.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from audio.errors import MediaError, UndecodableChunkError, UnsupportedMediaError
from audio.media.samples import PcmFormat, Samples
from audio.media.wav import (
    CHUNK_HEAD_BYTES,
    FORMAT_BYTES,
    KNOWN_NAMES,
    MAGICS,
    MAX_FORMAT_BYTES,
    RIFF_HEAD_BYTES,
    SIZES_BYTES,
    STRONG_HEAD_BYTES,
    TRAILERS,
    begins_file,
    find_file,
    is_chunk_name,
    is_placeholder,
    is_plain_name,
    may_be_file,
    parse_format,
    parse_sizes,
)

AUDIO_DROPPED = "audio_dropped"
SIZE_EXCEEDED = "wav_size_exceeded"
# The largest sub-chunk outside of the RIFF chunk, where no size in the header confirms its own size.
_MAX_STRAY_CHUNK_BYTES = 1 << 24
# If this much follows the declared end, it is not junk: the declared size was wrong.
_JUNK_BYTES = 1 << 10
_DETAIL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Fault:
    """A part of the input that is not in the samples, or is in them only because of a guess.

    A fault that covers several messages is returned again with each of them.

    Attributes:
        error: Why a file cannot be decoded; None for a warning.
        code: The code of the error or the warning.
        detail: The sentence for people.
        first_sequence: The message in which the fault begins.
        last_sequence: The last message so far that the fault covers.
        is_new: Whether the fault is returned for the first time.
    """

    error: MediaError | None
    code: str
    detail: str
    first_sequence: int
    last_sequence: int
    is_new: bool = True


class Phase(StrEnum):
    """The position of a reader in the structure of its input."""

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
    """The account of every byte of the input. Together with the bytes that the reader holds, it is complete.

    Attributes:
        sample_bytes: The bytes of the returned samples.
        structure_bytes: The bytes of headers and sub-chunks.
        dropped_bytes: The bytes of the rest by the reason: `partial_frame` for an incomplete sample frame at an end,
            `undecodable` for the samples of files that cannot be decoded, and `behind_the_end` for bytes after a file
            that are neither sound nor a sub-chunk.
    """

    sample_bytes: int = 0
    structure_bytes: int = 0
    dropped_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """The sum of all bytes."""
        return self.sample_bytes + self.structure_bytes + sum(self.dropped_bytes.values())


@dataclass(slots=True)
class _File:
    """The file that is being read.

    Attributes:
        format: The format of the samples; None while it is not known.
        position: The number of bytes that were read.
        end: The end of the RIFF chunk by the header; None if the header does not declare it.
        long_size: The size of the data in ds64; None without ds64.
        first_sequence: The message in which the file began.
        last_sequence: The message that contains the last byte that was read.
        is_whole: Whether one message begins with the file and contains it up to the end of its data.
        is_live: Whether the size of the data was a placeholder, so that more samples may follow.
        fault: The code and the sentence of the reason why the file cannot be decoded. Its samples are dropped.
        is_told: Whether the fault has been returned.
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
        """The number of bytes up to the end of the RIFF chunk; 0 if the end is reached or not known."""
        return max(0, (self.end or 0) - self.position)


@dataclass(slots=True)
class WavReader:
    """The reader of one source.

    Attributes:
        raw: The format of headerless PCM.
        chunk_mode: The session's parameter `chunks`: how messages and files relate.
        phase: The position in the structure of the input.
        held: The bytes that wait for the next message: an incomplete header or sample frame, or possible junk after a
            file.
        left: The number of bytes that the current sub-chunk still has; None if that is not known.
        is_padded: Whether the size of the current sub-chunk is odd, so that a pad byte may follow.
        accounted: The account of every byte.
    """

    raw: PcmFormat
    chunk_mode: str = "auto"
    phase: Phase = Phase.START
    held: bytes = b""
    left: int | None = None
    is_padded: bool = False
    accounted: Accounted = field(default_factory=Accounted)
    _file: _File = field(default_factory=_File)
    # Whether the held bytes begin a message, and the sequence of that message.
    _is_held_edge: bool = False
    _held_sequence: int = 0
    _input: bytes = field(default=b"", repr=False)
    _at: int = field(default=0, repr=False)
    # Where in the input the new message begins, and its sequence.
    _joint: int = field(default=0, repr=False)
    _sequence: int = field(default=0, repr=False)
    _is_final: bool = field(default=False, repr=False)
    _is_searching: bool = field(default=True, repr=False)
    _out: list[Samples | Fault] = field(default_factory=list, repr=False)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON, for `restore`. Its size is bounded for any input."""
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
        """Return a reader with a state that `state` returned."""
        return cls(
            raw,
            chunk_mode,
            Phase(state["phase"]),
            bytes.fromhex(state["held"]),
            state["left"],
            state["is_padded"],
            Accounted(**state.get("accounted", {})),
            # Before version 1.1 the attributes of the file were at the top of the state.
            _File.restore(state.get("file", {"format": state.get("format"), "long_size": state.get("long_size")})),
            state.get("is_held_edge", False),
            state.get("held_sequence", 0),
        )

    @property
    def format(self) -> PcmFormat | None:
        """The format of the file that is being read; None while it is not known."""
        return self._file.format

    @property
    def fed_bytes(self) -> int:
        """The size of the whole input: the bytes that are accounted for, and those that are held."""
        return self.accounted.total_bytes + len(self.held)

    @property
    def is_in_header(self) -> bool:
        """Whether the reader is in a WAV file, before its samples."""
        return self.phase in _IN_HEADER

    def feed(self, message: bytes) -> list[Samples]:
        """Read the next piece of a well-formed file, such as a master or the output of FFmpeg.

        A header between its samples is not searched for.

        Raises:
            UndecodableChunkError: The reader cannot follow the header.
            UnsupportedMediaError: The file has no PCM.
        """
        self._is_searching = False
        return self._strict(self.read(message))

    def flush(self) -> list[Samples]:
        """Return the held samples at the end of a file that was read with `feed`, as `finish` does."""
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
            sequence: The sequence of the message, for the faults.

        Returns:
            The sample frames that are complete now, in their order, and the faults between them.
        """
        if self._is_plain(message):
            self.accounted.sample_bytes += len(message)
            return [Samples(self.raw, message)] if message else []
        self._out, self._sequence = [], sequence
        if self.chunk_mode == "auto" and begins_file(message):
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
        """Return the held samples at the end of a source. An incomplete sample frame is dropped."""
        self._out = []
        self._end()
        return self._taken()

    def interrupt(self) -> list[Samples | Fault]:
        """Return the sample frames that are held because a header may begin in them.

        It is called before samples of another source follow.
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
        """Take steps until more input is needed. Hold the rest of the input."""
        while self._step():
            pass
        if self._at >= self._joint:
            self._is_held_edge, self._held_sequence = self._at == self._joint, self._sequence
        elif self._at:
            self._is_held_edge = False
        self.held, self._input, self._at, self._joint = self._input[self._at :], b"", 0, 0

    def _end(self) -> None:
        """Process the held bytes as the end of the input, and begin anew."""
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
        """Whether the message consists of whole frames of raw PCM. This case has to be fast."""
        if self.phase is not Phase.RAW or self.held or len(message) % self.raw.frame_bytes:
            return False
        if self.chunk_mode == "files" or (self.chunk_mode == "auto" and message[:4] in MAGICS):
            return False
        tail = message[1 - STRONG_HEAD_BYTES :]
        return not self._is_searching or not (b"R" in tail or b"B" in tail or b"WAVE" in message)

    def _restart(self) -> None:
        """Leave the file. Anything may follow."""
        self._tell_fault()
        self.phase, self.left, self.is_padded, self._file = Phase.START, None, False, _File()

    # Accounting: every byte passes through one of these methods.

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
        """Note why the file cannot be decoded. Its samples will be dropped. Only the first reason is kept."""
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
        """The sequence of the message that contains the next byte."""
        return self._held_sequence if self._at < self._joint else self._sequence

    # Steps

    def _step(self) -> bool:
        """Take one step in the input. Return whether another may follow; False if more input is needed."""
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
        head = self._input[self._at : self._at + RIFF_HEAD_BYTES]
        if not head:
            return False
        if not may_be_file(head) or (self._is_final and len(head) < RIFF_HEAD_BYTES):
            self.phase = Phase.RAW
            return True
        if len(head) < RIFF_HEAD_BYTES:
            return False
        self._begin(head)
        return True

    def _begin(self, head: bytes) -> None:
        is_message = self.chunk_mode != "stream" and self._at == self._joint
        self._file = _File(first_sequence=self._here, is_whole=is_message)
        self._structure(RIFF_HEAD_BYTES)
        size = int.from_bytes(head[4:8], "big" if head[:4] == b"RIFX" else "little")
        self._file.end = None if is_placeholder(size) else 8 + size
        self.phase = Phase.CHUNK
        if head[:4] == b"RIFX":
            self._fail(
                UnsupportedMediaError("A big-endian WAV file (RIFX) can't be recorded. Send a RIFF file instead.")
            )
            self._lose()

    def _lose(self) -> None:
        """Drop the rest of a file that cannot be followed, up to the end of its RIFF chunk or to the next file."""
        self.phase, self.is_padded = Phase.DATA, False
        self.left, self._file.is_live = self._file.room or None, not self._file.room

    def _chunk(self) -> bool:
        pad = self._pad_bytes(self._at)
        if pad is None:
            return False
        self._structure(pad)
        self.is_padded = False
        head = self._input[self._at : self._at + CHUNK_HEAD_BYTES]
        if self._is_over(head[:4]):
            self._fail(UndecodableChunkError("The WAV file has no samples."))
            self._restart()
            return True
        if len(head) < CHUNK_HEAD_BYTES:
            return False
        if head[:4] in MAGICS and self._is_file_at(self._at) is not False:
            return self._cut_off()
        self._enter_chunk(head[:4], int.from_bytes(head[4:], "little"))
        return True

    def _enter_chunk(self, name: bytes, size: int) -> None:
        if name == b"data":
            self._enter_data(size)
        elif not is_chunk_name(name):
            self._fail(UndecodableChunkError("The WAV header is damaged: a sub-chunk has no readable name."))
            self._lose()
        elif name in (b"fmt ", b"ds64") and size > MAX_FORMAT_BYTES:
            self._fail(UndecodableChunkError("The WAV header is damaged: its format chunk is too large."))
            self._lose()
        else:
            self._structure(CHUNK_HEAD_BYTES)
            self.phase = {b"fmt ": Phase.FORMAT, b"ds64": Phase.SIZES}.get(name, Phase.SKIP)
            self.left, self.is_padded = size, bool(size % 2)

    def _is_over(self, name: bytes) -> bool:
        """Whether the RIFF chunk has ended before any data. A size is too small if a known sub-chunk follows."""
        end = self._file.end
        return (
            end is not None and self._file.position >= end and not any(known.startswith(name) for known in KNOWN_NAMES)
        )

    def _cut_off(self) -> bool:
        """Leave a file if another file begins in place of a sub-chunk. Return whether one does."""
        if self._is_file_at(self._at) is None:
            return False
        self._fail(UndecodableChunkError("The WAV file ends before its samples."))
        self._restart()
        return True

    def _pad_bytes(self, at: int) -> int | None:
        """Return 1 if there is a pad byte after a sub-chunk of odd size, otherwise 0; None if more input is needed.

        Some programs omit the pad byte, and some fill it with any value.
        """
        if not self.is_padded:
            return 0
        head = self._input[at : at + 5]
        if not head or (head[0] and len(head) < 5):
            return 0 if self._is_final else None
        names = {*KNOWN_NAMES, *MAGICS}
        return int(not head[0] or (head[:4] not in names and head[1:] in names))

    def _enter_data(self, size: int) -> None:
        file = self._file
        if size in (0, 0xFFFFFFFF) and file.long_size is not None:
            size = file.long_size
        self._structure(CHUNK_HEAD_BYTES)
        if file.format is None and file.fault is None:
            self._fail(UndecodableChunkError("The WAV file has data before its format chunk."))
        self.phase, self.left, self.is_padded, file.is_live = Phase.DATA, size, bool(size % 2), False
        if not is_placeholder(size):
            return
        file.is_live, self.is_padded = True, False
        # If the RIFF chunk has a size and the data have none, sub-chunks may follow, or samples that were not counted.
        self.left = 0 if not size and file.end is not None else None

    def _body(self) -> bool:
        size = self.left or 0
        kept = min(size, SIZES_BYTES if self.phase is Phase.SIZES else FORMAT_BYTES)
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
        sizes = parse_sizes(body)
        if sizes is not None:
            riff_bytes, self._file.long_size = sizes
            if self._file.end is None and not is_placeholder(riff_bytes):
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
        """Whether the data have reached their declared end. The bytes that are `left` then are part of a frame."""
        if self.phase is not Phase.DATA or self.left is None or self.left >= frame_bytes:
            return False
        if self._available() < self.left:
            return False
        self.phase = Phase.AFTER
        self._file.is_whole = self._file.is_whole and self._file.position <= self._at - self._joint
        return True

    def _lost(self, limit: int) -> bool:
        """Drop up to `limit` bytes of samples that cannot be decoded."""
        end = self._at + limit
        found, cut = self._search(limit)
        dropped = cut - self._at
        self._drop(dropped, "undecodable")
        self.left = None if self.left is None else self.left - dropped
        if found:
            self._restart()
        return found or (cut == end and self._has_ended(1))

    def _frames(self, pcm: PcmFormat, limit: int) -> bool:
        """Return whole frames of up to `limit` bytes, up to the place where another file begins or may begin."""
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
        """Search the next `limit` bytes for the header of another file.

        Returns:
            Whether there is one, and where in the input it begins; otherwise where one may begin at the end of the
            input, or where the `limit` bytes end.
        """
        end = self._at + limit
        if not self._is_searching:
            return False, end
        return find_file(self._input, self._at, end, self._is_final)

    # After the data

    def _after(self) -> bool:
        """Handle the bytes after the data, of which `left` bytes are part of a frame.

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
        """Return 1 if a pad byte follows the data, otherwise 0; None if more input is needed."""
        partial = self.left or 0
        at = self._at + partial
        if not self._is_edge(at) or (self._file.room > partial and not self._file.is_whole):
            return self._pad_bytes(at)
        # The file may have ended with its message. Then this byte may be the first one of raw PCM.
        if not self.is_padded or self._input[at : at + 1] not in (b"", b"\0"):
            return 0
        if at == self._joint and self._available(at) == 1 and self._file.room > partial:
            return 1
        is_file, size = self._is_file_at(at + 1), self._chunk_at(at + 1)
        if not self._is_final and (is_file is None or (not is_file and size is None)):
            return None
        return int(bool(is_file) or (size is not None and size >= 0))

    def _leave_data(self, pad: int) -> None:
        """Drop the incomplete frame at the end of the data, and skip the pad byte."""
        self._drop(self.left or 0, "partial_frame")
        self._structure(pad)
        self.left, self.is_padded = 0, False

    def _trailer(self, size: int) -> None:
        """Skip a sub-chunk after the data. Another data sub-chunk continues the samples."""
        if self._input[self._at : self._at + 4] == b"data":
            self._enter_data(size)
            return
        self._file.is_live = False
        self._structure(CHUNK_HEAD_BYTES)
        self.phase, self.left, self.is_padded = Phase.TRAILER, size, bool(size % 2)

    def _is_edge(self, at: int) -> bool:
        """Whether a message begins at this place of the input, in a mode in which a file may end with its message."""
        return self.chunk_mode != "stream" and (at == self._joint or (at == 0 and self._is_held_edge))

    def _is_file_at(self, at: int) -> bool | None:
        """Whether a file begins at this place; None if more input is needed."""
        head = self._input[at : at + RIFF_HEAD_BYTES]
        if not may_be_file(head):
            return False
        return True if len(head) == RIFF_HEAD_BYTES else None

    def _chunk_at(self, at: int) -> int | None:
        """Return the size of the sub-chunk that begins at this place; -1 if none does, None if more input is needed."""
        head = self._input[at : at + CHUNK_HEAD_BYTES]
        name = head[:4]
        if name in MAGICS or (name and not is_chunk_name(name)):
            return -1
        most = self._most_chunk_bytes(name, at)
        if most < 0:
            return -1
        if len(head) < CHUNK_HEAD_BYTES:
            return None
        size = int.from_bytes(head[4:], "little")
        return size if size <= most else -1

    def _most_chunk_bytes(self, name: bytes, at: int) -> int:
        """Return how large a sub-chunk can be that begins at this place with `name`; -1 if there can be none."""
        # Some programs do not count the last pad byte in the size of the RIFF chunk.
        most = self._room(at) - CHUNK_HEAD_BYTES + 1
        if self._file.is_whole and not self._is_edge(at):
            most = max(most, self._available(at) - CHUNK_HEAD_BYTES)
        if most >= 0:
            return most
        if any(known.startswith(name) for known in TRAILERS):
            return _MAX_STRAY_CHUNK_BYTES
        has_no_end = self._file.end is None or self._file.end < self._file.position
        is_plain = not self._file.is_live and is_plain_name(name)
        return _MAX_STRAY_CHUNK_BYTES if has_no_end and is_plain else -1

    def _room(self, at: int) -> int:
        """Return the number of bytes up to the end of the RIFF chunk; at most 0 if it has ended or has no size."""
        return 0 if self._file.end is None else self._file.end - self._file.position - (at - self._at)

    def _beyond(self, at: int, pad: int) -> bool:
        """Handle bytes after the data that are neither a sub-chunk nor a file."""
        file, room = self._file, self._room(at)
        if file.is_live:
            self._go_on(None)
        elif self._is_edge(at) and (file.is_whole or room <= 0):
            # These are raw PCM in a message of its own.
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
        """Continue with more samples of the same format, because the declared size was wrong."""
        self.phase, self.left, self.is_padded = Phase.DATA, size, False
        self._file.is_live = size is None

    def _leave_lost(self, pad: int, room: int) -> None:
        """Leave a file that cannot be decoded, and drop the rest of its message."""
        self._leave_data(pad)
        if room > 0:
            self._lose()
            return
        if self.chunk_mode != "stream":
            self._drop(self._search(self._available())[1] - self._at, "undecodable")
        self._restart()

    def _exceed(self, at: int, pad: int) -> bool:
        """Handle bytes after a file in the same message: a few are junk, more are samples."""
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
        """Drop bytes after a file that cannot be recorded."""
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
