"""The family of raw PCM and WAV: the samples of all sources, converted to those of one WAV master.

The master becomes the recording without being copied or moved.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import structlog

from audio.assembly.assembler import OnProgress, Windows
from audio.assembly.chunks import Chunk, PendingChunk, read
from audio.assembly.comparison import ReadyRecording, RecordingDiffersError
from audio.assembly.losses import Losses, Place
from audio.assembly.made import Made, name_of, no_audio
from audio.assembly.master import Master
from audio.assembly.samples import MOST_CHANNELS, SampleAssembler
from audio.errors import ChunkDamagedError
from audio.media import convert, wav
from audio.media.plan import Family
from audio.media.samples import PcmFormat, Samples
from audio.media.wav_reader import Fault, WavReader
from audio.models import AudioSession, Recording

logger = structlog.stdlib.get_logger(__name__)

_SILENCE = {"u8": b"\x80", "mulaw": b"\xff", "alaw": b"\xd5"}
_UNACCOUNTED = "audio_unaccounted"


class PcmAssembler(SampleAssembler):
    """The assembler of raw PCM and WAV. Each source has a reader, which parses its messages.

    A file that cannot be decoded is left out with a warning, and the audio after it is recorded.
    """

    family: ClassVar[Family] = Family.PCM

    def __init__(
        self, session: AudioSession, target: PcmFormat | None, done_to: int, checkpoint: dict[str, Any]
    ) -> None:
        super().__init__(session, target, checkpoint)
        self.looked_to = self.done_to = done_to
        self._undecided: list[str] = session.undecided
        self._chunk_mode = session.chunk_mode
        self._raw = PcmFormat(session.encoding, session.sample_rate, session.channels)
        self._readers: dict[int, WavReader] = {}
        self._is_decided = target is not None
        if target is not None:
            self._decide(target)
        self.losses = Losses(**checkpoint.get("losses", {}))
        # Damaged chunks that are not noted yet, and the length of the silence in their place.
        self._damaged: list[Fault] = []
        self._silent_seconds: dict[int, float] = {}
        for source, state in checkpoint.get("readers", {}).items():
            self._readers[int(source)] = WavReader.restore(self._raw, self._chunk_mode, state)

    def take(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[bytes]:
        """Yield the window's samples as those of the master."""
        entries = itertools.groupby(self._parsed(window, is_last), key=_kind)
        for (source_id, pcm_format), run in entries:
            if pcm_format is None:
                self._note(fault for _, fault in run if isinstance(fault, Fault))
                continue
            data = b"".join(samples.data for _, samples in run if isinstance(samples, Samples))
            yield from self.output.put(source_id, Samples(pcm_format, data))
        self.looked_to = self.done_to = window[-1].sequence if window else self.done_to
        if is_last:
            yield from self.output.flush()
        for sentence in self.output.faults():
            self._warn_unaccounted(sentence)

    def _note(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            place = self._place(fault.first_sequence, fault.last_sequence)
            if not fault.is_new:
                self.losses.extend(fault.code, fault.first_sequence, fault.last_sequence)
            elif fault.error is not None:
                silent_seconds = self._silent_seconds.pop(fault.first_sequence, 0.0)
                self.losses.lose(fault.error, replace(place, end_seconds=place.start_seconds + silent_seconds))
            else:
                self.losses.warn(fault.code, fault.detail, place)

    def _place(self, first_sequence: int, last_sequence: int) -> Place:
        return Place(first_sequence, last_sequence, self.output.seconds, self.output.seconds)

    def _note_damage(self, error: ChunkDamagedError, size_bytes: int) -> bytes:
        """Note a damaged chunk, and return silence of the same length, so that the audio after it does not move."""
        sequence = error.details["sequence"]
        self._damaged.append(Fault(error, error.code, error.detail, sequence, sequence))
        self._silent_seconds[sequence] = size_bytes / self._raw.frame_bytes / self._raw.sample_rate
        return size_bytes * _SILENCE.get(self._raw.encoding, b"\0")

    def _warn_unaccounted(self, sentence: str) -> None:
        logger.error("audio_unaccounted", detail=sentence, sequence=self.done_to)
        self.losses.warn(_UNACCOUNTED, sentence, self._place(self.done_to, self.done_to))

    def _parsed(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[tuple[int, Samples | Fault]]:
        for chunk in read(window, self._note_damage):
            reader = self._readers.get(chunk.source_id)
            if reader is None:
                reader = self._readers[chunk.source_id] = WavReader(self._raw, self._chunk_mode)
            for source_id, other in self._readers.items():
                if other is not reader and other.held:
                    yield from self._given(source_id, other.interrupt())
            damaged, self._damaged = self._damaged, []
            yield from self._given(chunk.source_id, damaged)
            yield from self._given(chunk.source_id, self._read(reader, chunk))
        if is_last:
            for source_id, reader in self._readers.items():
                yield from self._given(source_id, reader.finish())

    def _read(self, reader: WavReader, chunk: Chunk) -> list[Samples | Fault]:
        before = reader.fed_bytes
        entries = reader.read(chunk.payload, chunk.sequence)
        if reader.fed_bytes - before != len(chunk.payload):
            self._warn_unaccounted(f"{reader.fed_bytes - before} of {len(chunk.payload)} bytes are accounted for.")
        return entries

    def _given(self, source_id: int, entries: Iterable[Samples | Fault]) -> Iterator[tuple[int, Samples | Fault]]:
        for entry in entries:
            if not self._is_decided and isinstance(entry, Samples):
                self._is_decided = True
                self._decide(entry.format)
            yield source_id, entry

    def _decide(self, first: PcmFormat) -> None:
        """Set the rate and the channels of raw PCM to those of the master, if the first samples have decided these."""
        raw = self._raw
        rate_hz = first.sample_rate if "sample_rate" in self._undecided else raw.sample_rate
        channels = min(first.channels, MOST_CHANNELS) if "channels" in self._undecided else raw.channels
        self._raw = PcmFormat(raw.encoding, rate_hz, channels)
        for reader in self._readers.values():
            reader.raw = self._raw

    def examine(self, master: Path, is_last: bool) -> None:
        """Do nothing: `take` knows everything about the samples."""

    def checkpoint(self) -> dict[str, Any]:
        """Return the state of every reader and of the converters, and the damaged chunks."""
        readers = {str(source): reader.state() for source, reader in self._readers.items()}
        return {"readers": readers, "losses": self.losses.state(), **self.output.checkpoint()}

    def finish(self, master: Master, on_progress: OnProgress) -> Made:
        """Write the sizes into the header. The master becomes the recording."""
        session = self._session
        pcm = self.format or PcmFormat(convert.master_encoding(session.encoding), session.sample_rate, session.channels)
        if not master.size_bytes and self.losses.failure:
            raise no_audio(self.losses)
        if not master.size_bytes:
            # The session has less than one sample.
            master.append([wav.header(pcm, 0)])
        seconds = (master.size_bytes - wav.HEADER_BYTES) / pcm.frame_bytes / pcm.sample_rate
        return Made(name_of(session.id, master.path), "wav", master.finish_wav(pcm), seconds)

    def compare(self, ready: ReadyRecording, windows: Windows) -> None:
        """Compare the header, and every sample unless it was resampled."""
        self.compare_header(ready.row, ready.path)
        self._compare_master(windows, ready.row, ready.path, is_exact=True)

    def compare_header(self, recording: Recording, path: Path) -> None:
        """Compare the header with the format and the length of the samples."""
        data_bytes = max(0, recording.master_bytes - wav.HEADER_BYTES)
        with path.open("rb") as file:
            if file.read(wav.HEADER_BYTES) != wav.header(self._master_format(recording), data_bytes):
                raise RecordingDiffersError("The header of the recording has changed.")


def _kind(entry: tuple[int, Samples | Fault]) -> tuple[int, PcmFormat | None]:
    """Return the source and the format of samples; None for a fault."""
    source_id, item = entry
    return source_id, item.format if isinstance(item, Samples) else None
