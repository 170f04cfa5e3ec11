"""The comparison of a ready recording with its chunks: the assembly runs again, and its output is compared, not kept.

Memory is bounded, and so is the disk: only WebM, Ogg and MP4 streams need two files of the recording's size in a
working folder. The comparison depends on the format:

    PCM and WAV                   every sample, and the header
    MP3, ADTS and FLAC streams    every byte, except FLAC's STREAMINFO, in which the total is written at the end
    WebM, Ogg and MP4 streams     every packet, because the containers contain random numbers
    FLAC files, one by one        every sample
    other files, resampled audio  the number of samples, because the last bit depends on where the windows ended
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from audio.assembly import chunks, finish
from audio.assembly.assembler import Assembler
from audio.assembly.files import FilesAssembler
from audio.assembly.master import Master
from audio.assembly.pcm import PcmAssembler
from audio.assembly.stream import PartsDifferError, StreamAssembler
from audio.errors import MediaError, SessionBusy
from audio.media import convert, ffmpeg, plan, wav
from audio.media.wav import SAMPLE_BYTES, PcmFormat, WavReader
from audio.models import AudioSession, Recording
from audio.storage import downloads, paths
from audio.storage.lock import session_lock

OnChunk = Callable[[int], None]
_BLOCK_BYTES = 1 << 20
_EXACT_FLAC = ("s16le", "s24le")


class Differs(Exception):
    """The recording differs from what its chunks make. The message says where."""


def compare(session: AudioSession, recording: Recording, path: Path, on_chunk: OnChunk) -> None:
    """Compare the ready recording of a closed session with its chunks.

    Args:
        session: The session.
        recording: Its recording.
        path: The recording's file.
        on_chunk: Called after each window with the sequence of the last compared chunk.

    Raises:
        Differs: The chunks make another recording.
        SessionBusy: Another run is at work on the session.
        MediaError: An error that may pass.
    """
    try:
        with session_lock(session.pk) as is_ours:
            if not is_ours:
                raise SessionBusy
            paths.clear_leftovers(session.pk)
            with ffmpeg.working_folder(paths.folder(session.pk)) as work:
                _Replay(session, recording, path, work, on_chunk).run()
    except MediaError as error:
        if error.retryable:
            raise
        raise Differs(error.detail) from error
    except PartsDifferError as error:
        raise Differs("The parts of the stream no longer fit together.") from error
    finally:
        # If the session was deleted meanwhile, the folder that the lock has created again has to go too.
        if not AudioSession.objects.filter(pk=session.pk).exists():
            paths.delete_files(session.pk)


def compare_header(session: AudioSession, recording: Recording, path: Path) -> None:
    """Compare the header of a recording of samples, which needs no chunks.

    Raises:
        Differs: The header is not the one that the recording was given.
    """
    if plan.family(session.format, session.chunk_mode) is plan.Family.PCM:
        expected = wav.header(_master_pcm(session, recording), max(0, recording.master_bytes - wav.HEADER_BYTES))
        with path.open("rb") as file:
            if file.read(wav.HEADER_BYTES) != expected:
                raise Differs("The header of the recording has changed.")


def _master_pcm(session: AudioSession, recording: Recording) -> PcmFormat:
    pcm = downloads.master_format(session, recording)
    return pcm if pcm.encoding else replace(pcm, encoding=convert.master_encoding(session.encoding))


class _Replay:
    """One assembly from the first chunk on, by the same route as the recording's last run."""

    def __init__(self, session: AudioSession, recording: Recording, path: Path, work: Path, on_chunk: OnChunk) -> None:
        self._session = session
        self._recording = recording
        self._work = work
        self._on_chunk = on_chunk
        self._path = path
        self._assembler = self._chosen()

    def _chosen(self) -> Assembler:
        if plan.family(self._session.format, self._session.chunk_mode) is plan.Family.PCM:
            return PcmAssembler(self._session, None, 0, {})
        if self._recording.master_encoding:
            return FilesAssembler(self._session, None, 0, {})
        return StreamAssembler(self._session, 0, {})

    def run(self) -> None:
        """Compare everything that the format allows to compare."""
        match self._assembler:
            case StreamAssembler() as assembler if self._session.format in ("mp3", "aac", "flac"):
                self._compare_bytes(assembler)
            case StreamAssembler() as assembler:
                self._compare_packets(assembler)
            case FilesAssembler() if self._recording.format == "flac":
                self._compare_decoded()
            case FilesAssembler():
                self._compare_samples(paths.root() / self._recording.master_name)
            case _:
                compare_header(self._session, self._recording, self._path)
                self._compare_samples(self._path)

    def _windows(self) -> Iterator[Iterator[bytes]]:
        """Yield the pieces of each window. They must be consumed before the next window."""
        is_last = False
        while not is_last:
            window = chunks.window_after(self._session.pk, self._assembler.looked_to)
            is_last = not window or window[-1].sequence >= self._session.total_chunks
            yield self._assembler.take(window, is_last)
            self._on_chunk(self._assembler.looked_to)

    def _pieces(self) -> Iterator[bytes]:
        return itertools.chain.from_iterable(self._windows())

    def _compare_bytes(self, assembler: StreamAssembler) -> None:
        comparison = _Comparison(_blocks(self._path))
        for piece in self._pieces():
            comparison.expect(piece, masked=_header_places(assembler))
        comparison.end()
        finish.settle_last_frame(assembler, self._path)
        if (header := finish.true_header(assembler)) is not None:
            offset, expected = header
            with self._path.open("rb") as file:
                file.seek(offset)
                if file.read(len(expected)) != expected:
                    raise Differs("The header of the recording does not declare its length.")

    @property
    def _pcm(self) -> PcmFormat:
        return _master_pcm(self._session, self._recording)

    @property
    def _data_bytes(self) -> int:
        return max(0, self._recording.master_bytes - wav.HEADER_BYTES)

    def _compare_samples(self, path: Path) -> None:
        self._compare_pcm(_blocks(path, wav.HEADER_BYTES, self._data_bytes))

    def _compare_decoded(self) -> None:
        arguments = plan.decode("flac", str(self._path), 8 * SAMPLE_BYTES[self._pcm.encoding])
        reader = WavReader(self._pcm, "stream")
        decoded = ffmpeg.output_of(arguments, self._work)
        self._compare_pcm(samples.data for block in decoded for samples in reader.feed(block))

    def _compare_pcm(self, actual: Iterator[bytes]) -> None:
        comparison = _Comparison(actual)
        pieces = self._pieces()
        # `compare_header` has compared the header.
        next(pieces, b"")
        for piece in pieces:
            comparison.expect(piece, self._is_exact())
        comparison.end()

    def _is_exact(self) -> bool:
        if self._assembler.checkpoint().get("converters"):
            return False
        return isinstance(self._assembler, PcmAssembler) or (
            self._session.format == "flac" and self._recording.master_encoding in _EXACT_FLAC
        )

    def _compare_packets(self, assembler: StreamAssembler) -> None:
        master = Master(self._work / f"master.{assembler.suffix}")
        try:
            for pieces in self._windows():
                master.append(pieces)
                assembler.compare(master.path, assembler.looked_to >= self._session.total_chunks)
            made = finish.finish(self._session, assembler, master, lambda _: None)
        finally:
            master.close()
        expected = self._packets(self._work / Path(made.file_name).name)
        for number, pair in enumerate(itertools.zip_longest(expected, self._packets(self._path)), start=1):
            if pair[0] != pair[1]:
                raise Differs(f"Packet {number} of the recording differs from its chunks.")

    def _packets(self, path: Path) -> Iterator[bytes]:
        """Yield the size and the MD5 of each packet."""
        held = b""
        for block in ffmpeg.output_of(plan.packets(self._session.format, str(path)), self._work):
            *lines, held = (held + block).split(b"\n")
            for line in lines:
                if not line.startswith(b"#"):
                    yield b",".join(line.split(b",")[4:])


def _header_places(assembler: StreamAssembler) -> range:
    """Return the positions of the counts that are written into the header when the stream is complete."""
    if assembler.flac is not None and assembler.flac.info is not None:
        return range(assembler.flac.info.offset, assembler.flac.info.offset + len(assembler.flac.info.body))
    if assembler.counter is not None and assembler.counter.info is not None:
        return range(assembler.counter.info_at, assembler.counter.info_at + len(assembler.counter.info.frame))
    return range(0)


class _Comparison:
    """A comparison of expected bytes with actual bytes, which come in pieces of different sizes."""

    def __init__(self, actual: Iterator[bytes]) -> None:
        self._actual = actual
        self._held = memoryview(b"")
        self._at = 0

    def expect(self, piece: bytes, is_exact: bool = True, masked: range = range(0)) -> None:
        """Compare a piece with the next actual bytes.

        Args:
            piece: The expected bytes.
            is_exact: Whether to compare the bytes, and not only their number.
            masked: Positions that are not compared.

        Raises:
            Differs: The bytes differ.
        """
        left = memoryview(piece)
        while left:
            if not self._held:
                self._held = memoryview(next(self._actual, b""))
            count = min(len(left), len(self._held))
            if not count:
                raise Differs(f"The recording ends after {self._at} bytes of audio, but its chunks have more.")
            if is_exact and left[:count] != self._held[:count]:
                self._check_masked(bytes(left[:count]), bytes(self._held[:count]), masked)
            left, self._held, self._at = left[count:], self._held[count:], self._at + count

    def _check_masked(self, expected: bytes, actual: bytes, masked: range) -> None:
        pairs = enumerate(zip(expected, actual, strict=True), start=self._at)
        for at, (mine, theirs) in pairs:
            if mine != theirs and at not in masked:
                raise Differs(f"Byte {at} of the audio of the recording differs from its chunks.")

    def end(self) -> None:
        """Check that no bytes follow.

        Raises:
            Differs: There are more bytes.
        """
        if self._held or any(self._actual):
            raise Differs(f"The recording continues after {self._at} bytes of audio, where its chunks end.")


def _blocks(path: Path, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
    """Yield a file's bytes from `start` on, at most `size_bytes` of them."""
    with path.open("rb") as file:
        file.seek(start)
        left = size_bytes
        while block := file.read(_BLOCK_BYTES if left is None else min(_BLOCK_BYTES, left)):
            left = None if left is None else left - len(block)
            yield block
