"""One run of assembly over one session: from the claim of its recording to its end.

A run commits only while its own token is in the row. For each window it writes, syncs, and commits the new length. A
run that ends normally removes its token, and so hands its master over. If a run has died, its token is still there. The
next run then copies the committed bytes, so that no sample is lost or doubled, even if the previous run was only slow
(`audio.assembly.master`).
"""

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import transaction
from django.db.models import QuerySet

from audio import events
from audio.assembly import chunks, families, markers
from audio.assembly.assembler import PartsDifferError
from audio.assembly.chunks import PendingChunk
from audio.assembly.conclusion import conclude
from audio.assembly.losses import Failure
from audio.assembly.made import Made, name_of
from audio.assembly.master import Master
from audio.errors import ChunkDamagedError
from audio.media import wav, waveform
from audio.models import AudioSession, DatabaseNow, Recording, RecordingState
from audio.storage import downloads, paths
from audio.webhooks import events as webhook_events

logger = structlog.stdlib.get_logger(__name__)

# The version of the checkpoints. A recording with a checkpoint of another version is made again from the first chunk.
CHECKPOINT_VERSION = 3
DETAIL_CHARACTERS = 500
_PROGRESS_SECONDS = 1.0


class ClaimLostError(Exception):
    """Another run has claimed the recording, or the recording was deleted. This run must not commit anything more."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The number of chunks that the session has, and whether more may come."""

    total: int
    is_closed: bool


class Run:
    """One run over one session, from the claim to its end."""

    def __init__(self, session: AudioSession, recording: Recording, is_handed_over: bool = False) -> None:
        """Continue from the row.

        Args:
            session: The session.
            recording: Its recording, claimed by this run.
            is_handed_over: Whether the previous run has ended, so that no other process writes its master.
        """
        self._session = session
        self._token = recording.token
        self._is_handed_over = is_handed_over
        # The master that the row names, and whether the row certainly names it.
        self._named = recording.master_name
        self._is_certain = True
        self._is_flushed = bool(recording.checkpoint.get("is_flushed"))
        target = downloads.master_format(session, recording) if recording.master_encoding else None
        self._assembler = families.restore(session, target, recording.chunks_done, recording.checkpoint)
        # The number of warnings that were sent to the clients.
        self._told = len(self._assembler.losses.entries)
        self._master_bytes = recording.master_bytes
        self._master: Master | None = None
        self._progress_at = 0.0

    def close(self) -> None:
        """Close the master."""
        if self._master is not None:
            self._master.close()
            self._master = None

    def to_the_end(self) -> None:
        """Process the pending windows. If the session is closed, finish the recording."""
        while self._token is not None:
            # The order matters: values of a closed session are final, and so are the rows that are read after them.
            outlook = self._outlook()
            window = markers.cut(chunks.window_after(self._session.id, self._assembler.looked_to))
            seen_to = window[-1].sequence if window else self._assembler.looked_to
            is_last = outlook.is_closed and seen_to == outlook.total > 0
            if not window and seen_to != outlook.total:
                raise ChunkDamagedError(f"The row of chunk {seen_to + 1} is missing.", sequence=seen_to + 1)
            if not window and (not is_last or self._is_flushed):
                break
            self._take(window, is_last, outlook)
        if (
            self._token is not None
            and outlook.is_closed
            and self._is_flushed
            and self._assembler.done_to == outlook.total
        ):
            self._complete()

    def _outlook(self) -> Outlook:
        session = AudioSession.objects.filter(pk=self._session.id).first()
        if session is None:
            raise ClaimLostError
        return Outlook(session.total_chunks, not session.is_open)

    def _take(self, window: list[PendingChunk], is_last: bool, outlook: Outlook) -> None:
        # The markers that were set after all chunks before them had been processed.
        markers.place(self._session.id, self._assembler)
        try:
            self._append(window, is_last)
        except PartsDifferError:
            self._start_over()
            return
        master = self._opened()
        master.sync()
        self._is_flushed = is_last
        # No chunk is pending after this window, so the master is handed over with it.
        is_handed_over = not outlook.is_closed and window[-1].sequence == outlook.total
        self._commit(
            lambda: markers.place(self._session.id, self._assembler),
            state=RecordingState.BUILDING if outlook.is_closed else RecordingState.LIVE,
            progress=self._assembler.done_to / outlook.total if outlook.is_closed else 0.0,
            **self._position(master),
            **({"token": None} if is_handed_over else {}),
        )
        self._took(master)
        self._tell_clients()
        if is_handed_over:
            self._token = None

    def _append(self, window: list[PendingChunk], is_last: bool) -> None:
        """Write a window to the master, and its peaks to the waveform.

        Raises:
            PartsDifferError: The session needs the family that decodes.
        """
        master = self._opened()
        master.append(self._assembler.take(window, is_last))
        self._assembler.examine(master.path, is_last)
        self._extend_peaks(master, is_last)

    # The same steps for a caller that commits one window of many open sessions together (`audio.assembly.live`).

    @property
    def looked_to(self) -> int:
        """The last sequence that the run has seen."""
        return self._assembler.looked_to

    def append(self, window: list[PendingChunk]) -> None:
        """Write a window to the master. It is not durable yet, and the row does not contain it.

        Raises:
            PartsDifferError: The session needs the family that decodes.
            MediaError, OSError: The window could not be made.
        """
        self._append(window, is_last=False)

    def sync(self) -> dict[str, Any]:
        """Make the master durable, and return the values of the row that describe it."""
        master = self._opened()
        master.sync()
        self._is_certain = False
        return self._position(master)

    def committed(self) -> None:
        """Note that the values of `sync` were committed, and the claim given up with them."""
        self._is_certain = True
        self._token = None
        self._took(self._opened())
        self._tell_clients()

    def _tell_clients(self) -> None:
        """Send new warnings to the connected clients, and store the parameters from the audio in the session."""
        for warning in self._assembler.losses.entries[self._told :]:
            events.recording_warned(self._session.id, warning)
        self._told = len(self._assembler.losses.entries)
        known = {"sample_rate": self._assembler.sample_rate, "channels": self._assembler.channels}
        decided = {name: value for name, value in known.items() if value and name in self._session.undecided}
        if decided:
            AudioSession.objects.filter(pk=self._session.id).decide(**decided)
            self._session.undecided = [name for name in self._session.undecided if name not in decided]

    def _took(self, master: Master) -> None:
        """Note that the row names this master now. Delete the one from which it was copied, unless that is longer."""
        name = self._name_of(master)
        before = paths.root() / self._named
        if self._named not in ("", name) and before.exists() and before.stat().st_size <= self._master_bytes:
            before.unlink()
        self._named, self._master_bytes = name, master.size_bytes

    def _extend_peaks(self, master: Master, is_last: bool) -> None:
        """Add the peaks of this window to the waveform, while its samples are still in memory."""
        if (pcm := self._assembler.format) is not None:
            before, now = (max(0, size - wav.HEADER_BYTES) for size in (self._master_bytes, master.size_bytes))
            waveform.extend(paths.peaks_path_of(master.path), master.path, pcm, before, now, is_last)

    def _opened(self) -> Master:
        if self._master is None:
            self._master = self._handed_over() or self._own()
        return self._master

    def _handed_over(self) -> Master | None:
        if not self._is_handed_over or not self._named:
            return None
        return Master.handed_over(paths.root() / self._named, self._master_bytes)

    def _own(self) -> Master:
        path = paths.folder(self._session.id) / f"master-{self._token}.{self._assembler.suffix}"
        if not self._named:
            return Master(path)
        before = paths.root() / self._named
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(paths.peaks_path_of(before), paths.peaks_path_of(path))
        return Master.copied(before, path, self._master_bytes)

    def _name_of(self, master: Master) -> str:
        return name_of(self._session.id, master.path)

    def _position(self, master: Master) -> dict[str, Any]:
        checkpoint = {
            "version": CHECKPOINT_VERSION,
            "family": self._assembler.family.value,
            "is_flushed": self._is_flushed,
            **self._assembler.checkpoint(),
        }
        return {
            "master_name": self._name_of(master),
            "master_bytes": master.size_bytes,
            "master_encoding": self._assembler.format.encoding if self._assembler.format else "",
            "sample_rate": self._assembler.sample_rate,
            "channels": self._assembler.channels,
            "warnings": self._assembler.losses.entries,
            "chunks_done": self._assembler.done_to,
            "checkpoint": checkpoint,
        }

    def _start_over(self) -> None:
        """Change to the family that decodes, and begin with the first chunk again."""
        stream, named = self._opened().path, self._named
        self.close()
        self._named, self._master_bytes, self._is_flushed = "", 0, False
        self._assembler, self._told = families.decoding(self._session), 0
        master = self._opened()
        self._commit(**self._position(master))
        stream.unlink(missing_ok=True)
        self._named = named
        self._took(master)

    def _commit(self, *also: Callable[[], object], **values: Any) -> None:
        """Write to the row, and make the other changes of the same transaction.

        Raises:
            ClaimLostError: The token in the row is no longer that of this run.
        """
        self._is_certain = False
        with transaction.atomic():
            if not self._mine().update(updated_at=DatabaseNow(), **values):
                raise ClaimLostError
            for each in also:
                each()
        self._is_certain = True

    def _mine(self) -> QuerySet[Recording]:
        return Recording.objects.filter(pk=self._session.id, token=self._token)

    def give_back(self) -> None:
        """Hand the master over in its committed state, because this run cannot continue.

        If it is unknown whether the last commit succeeded, the next run copies the master instead.
        """
        if not self._is_certain or self._token is None:
            return
        if self._master is not None and self._name_of(self._master) == self._named:
            self._master.cut_to(self._master_bytes)
        elif self._master is not None:
            self._master.path.unlink()
        self._mine().update(token=None)

    def _complete(self) -> None:
        """Change building to ready, or to failed if a part could not be decoded. The other parts are kept then."""
        try:
            made = self._assembler.finish(self._opened(), self._tell)
        except PartsDifferError:
            self._start_over()
            self.to_the_end()
            return
        self._tell_clients()
        if failure := self._assembler.losses.failure:
            self.fail(failure, made)
            return
        position = self._position(self._opened()) | {"checkpoint": {}}
        ready: dict[str, Any] = {"state": RecordingState.READY, "progress": 1.0, "ready_at": DatabaseNow()}
        markers.place_untimed(self._session.id, self._assembler, self._opened().path)
        self._publish(token=None, **ready, **position, **_file(made))
        logger.info("recording_ready", chunks=self._assembler.done_to, **_described(made))
        conclude(Recording.objects.get(pk=self._session.id))

    def _publish(self, **values: Any) -> None:
        """Replace the session's recording by the new one."""
        self._commit(lambda: markers.place_rest(self._session.id, values["duration_seconds"]), **values)

    def _tell(self, progress: float) -> None:
        now = time.monotonic()
        if now - self._progress_at >= _PROGRESS_SECONDS:
            self._progress_at = now
            self._commit(progress=progress)

    def fail(self, failure: Failure, kept: Made | None = None) -> None:
        """Make the recording `failed`. `kept` is the part of it that could be made."""
        logger.warning("recording_failed", code=failure.code, error=failure.detail)
        rest = self._position(self._opened()) | _file(kept) if kept else {}
        self._commit(
            lambda: webhook_events.recording_failed(self._session.id),
            state=RecordingState.FAILED,
            token=None,
            error_code=failure.code,
            error_detail=failure.detail[:DETAIL_CHARACTERS],
            failed_sequence=failure.sequence,
            **{"warnings": self._assembler.losses.entries, **rest},
        )


def _described(made: Made) -> dict[str, Any]:
    return {"format": made.format, "size_bytes": made.size_bytes, "duration_seconds": round(made.duration_seconds, 3)}


def _file(made: Made) -> dict[str, Any]:
    return {
        "file_name": made.file_name,
        "format": made.format,
        "size_bytes": made.size_bytes,
        "duration_seconds": made.duration_seconds,
    }
