r"""Concatenation: a session's chunks into its master, window by window, and at the end into the recording.

One run at a time (`session_lock`). A run claims the row with a token of its own and commits only while that
token stands. The order of a window: write, fsync, commit the new length. A run that ends hands its master over: it
takes its token away. After one that died the token stands; the next run copies what was committed, and no sample is
lost or doubled, even if the one before was not dead but only slow (`audio.assembly.master`).

    empty --commit--> live --commit, closed--> building --complete--> ready
                        \____________________________fail__________> failed

A recording that is ready is made anew beside itself (`_Rebuild`): the row and the file change when the other one is
complete, and if it can't be made they stay.
"""

import contextlib
import hashlib
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F, QuerySet
from structlog.contextvars import bound_contextvars

from audio import events
from audio.admission import Admission
from audio.assembly import chunks, families, superseded
from audio.assembly.assembler import PartsDifferError
from audio.assembly.chunks import PendingChunk
from audio.assembly.losses import Failure
from audio.assembly.made import Made, name_of
from audio.assembly.master import Master
from audio.errors import ChunkDamaged, ChunksReleased, MediaError
from audio.media import wav, waveform
from audio.models import AudioSession, DatabaseNow, Recording, RecordingState
from audio.storage import derived, downloads, paths
from audio.storage.lock import session_lock

logger = structlog.stdlib.get_logger(__name__)

_PROGRESS_SECONDS = 1.0
# The version of the checkpoints. A recording with a checkpoint of another version is made from its first chunk on.
_CHECKPOINT_VERSION = 3
_DETAIL_CHARACTERS = 500


class ClaimLostError(Exception):
    """Another run has claimed the recording, or it is gone: this one may commit nothing more."""


def concatenate(session_id: uuid.UUID) -> None:
    """Bring a session's recording as far as its chunks allow.

    It returns at once if another run has the session's lock, and looks for new chunks after it has released the lock. A
    fault of the media makes the recording `failed`. Any other error is raised, and the same call may succeed later.
    """
    with bound_contextvars(session_id=str(session_id)):
        while _run(session_id) and _has_work(session_id):
            pass


def rebuild(session_id: uuid.UUID) -> None:
    """Let the next run make the recording anew from the chunks.

    One that is ready stays until the other is complete; of any other state, all is forgotten.

    Raises:
        ChunksReleased: The chunks are not all there any more.
    """
    with transaction.atomic():
        # Locked, so that no sweep finds the recording ready and gives up its chunks in between.
        mine = Recording.objects.filter(pk=session_id)
        recording = mine.select_for_update().first()
        if chunks.are_released(session_id):
            raise ChunksReleased
        if recording is not None and recording.state == RecordingState.READY:
            mine.update(
                rebuild_requested_at=DatabaseNow(),
                rebuild_error_code="",
                rebuild_error_detail="",
                updated_at=DatabaseNow(),
            )
            return
        mine.update(**_NOTHING, state=RecordingState.EMPTY, updated_at=DatabaseNow())
        derived.forget(session_id)
    derived.delete(session_id)


# The row of a recording of which nothing is made.
_NOTHING: dict[str, Any] = {
    "token": None, "master_name": "", "master_encoding": "", "master_bytes": 0, "sample_rate": 0, "channels": 0,
    "chunks_done": 0, "checkpoint": {}, "progress": 0.0, "file_name": "", "format": "", "size_bytes": None,
    "duration_seconds": None, "sha256": "", "ready_at": None, "verified_at": None, "is_void": False,
    "remote_at": None, "is_local": True, "error_code": "", "error_detail": "", "failed_sequence": None,
    "warnings": [], "rebuild_requested_at": None, "rebuild_error_code": "", "rebuild_error_detail": "",
}  # fmt: skip


def _run(session_id: uuid.UUID) -> bool:
    """Work until nothing is left, and return whether the lock was acquired."""
    if not _exists(session_id):
        return False
    try:
        with session_lock(session_id) as is_ours:
            if is_ours:
                _work(session_id)
            return is_ours
    except ClaimLostError:
        logger.info("claim_lost")
        return False
    finally:
        # Deleted meanwhile: whatever this run, or its lock alone, has put there again goes too.
        if not _exists(session_id):
            paths.delete_files(session_id)


def _exists(session_id: uuid.UUID) -> bool:
    return AudioSession.objects.filter(pk=session_id).exists()


def _work(session_id: uuid.UUID) -> None:
    session = _decided(session_id)
    recording, _ = Recording.objects.get_or_create(session=session)
    if recording.state == RecordingState.READY and not recording.sha256:
        _conclude(recording)
    if not _has_work(session_id):
        return
    paths.clear_leftovers(session_id)
    run = _claimed(session)
    try:
        run.to_the_end()
    except MediaError as error:
        if error.retryable:
            run.give_back()
            raise
        run.fail(Failure(error.code, error.detail, error.details.get("sequence")))
    except OSError:
        run.give_back()
        raise
    finally:
        run.close()


def _decided(session_id: uuid.UUID) -> AudioSession:
    """Return the session. Its first bytes decide a format that nobody named, if its connection could not do that.

    Raises:
        ClaimLostError: It was deleted.
    """
    session = AudioSession.objects.filter(pk=session_id).first()
    if session is None:
        raise ClaimLostError
    if "format" in session.undecided and session.total_chunks:
        admission = Admission(session.format, session.chunk_mode, is_undecided=True)
        # A row that is missing is told by the run that needs it.
        with contextlib.suppress(MediaError):
            for chunk in chunks.read(chunks.window_after(session_id, 0), lambda *_: b""):
                admission.refusal(chunk.payload)
                if admission.found:
                    break
        if admission.found or not session.is_open:
            AudioSession.objects.filter(pk=session_id).decide(format=admission.found or admission.conclude())
            session.refresh_from_db()
    return session


def _claimed(session: AudioSession) -> "_Run":
    """Claim the recording: replace the token that was read from the row, and return the run of the new one.

    Raises:
        ClaimLostError: There is nothing to do any more, or another run was faster.
    """
    recording = Recording.objects.get(pk=session.pk)
    before, token = recording.token, uuid.uuid4()
    is_rebuild = recording.state == RecordingState.READY and recording.rebuild_requested_at is not None
    if recording.state in (RecordingState.READY, RecordingState.FAILED) and not is_rebuild:
        raise ClaimLostError
    if not Recording.objects.filter(pk=session.pk, state=recording.state, token=before).update(token=token):
        raise ClaimLostError
    if is_rebuild:
        superseded.tidy(session.pk, token)
        return _Rebuild(session, Recording(session=session, token=token))
    recording.refresh_from_db()
    if recording.checkpoint.get("version") != _CHECKPOINT_VERSION or not _has_master(recording):
        # Nothing was made yet; or a version wrote it whose checkpoints this one does not read; or what was made is
        # not there, as after an older backup of the database was put back. The chunks are.
        return _Run(session, Recording(session=session, token=token))
    return _Run(session, recording, is_handed_over=before is None)


def _has_master(recording: Recording) -> bool:
    """Whether the file that the row names is there, at the length that was committed."""
    return not recording.master_name or Master.holds(paths.root() / recording.master_name, recording.master_bytes)


def _has_work(session_id: uuid.UUID) -> bool:
    """Whether chunks or a close arrived that the last run did not see, or the recording is to be made anew."""
    session = AudioSession.objects.select_related("recording").filter(pk=session_id).first()
    if session is None or session.recording.state == RecordingState.FAILED:
        return False
    recording = session.recording
    if "format" in session.undecided and session.is_open:
        return False
    if recording.state == RecordingState.READY:
        return recording.rebuild_requested_at is not None
    looked_to = max(recording.chunks_done, recording.checkpoint.get("looked_to", 0))
    return session.total_chunks > looked_to or (session.total_chunks > 0 and not session.is_open)


def with_chunks_waiting(session_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Return the sessions that have pending chunks, in one query."""
    waiting = Recording.objects.filter(session__total_chunks__gt=F("chunks_done"))
    found = set(waiting.filter(pk__in=session_ids).values_list("pk", flat=True))
    return [session_id for session_id in session_ids if session_id in found]


@dataclass(frozen=True, slots=True)
class _Outlook:
    """How many chunks the session has, and whether more may come."""

    total: int
    is_closed: bool


class _Run:
    """One run over one session, from the claim to its end."""

    def __init__(self, session: AudioSession, recording: Recording, is_handed_over: bool = False) -> None:
        """Continue from the row. With `is_handed_over` the run before has ended, and nobody writes its master."""
        self._session = session
        self._token = recording.token
        self._is_handed_over = is_handed_over
        # The master that the row names, and whether that is certain.
        self._named = recording.master_name
        self._is_certain = True
        self._is_flushed = bool(recording.checkpoint.get("is_flushed"))
        target = downloads.master_format(session, recording) if recording.master_encoding else None
        self._assembler = families.restore(session, target, recording.chunks_done, recording.checkpoint)
        # How many warnings were told to the clients.
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
        """Process the pending windows, and finish the recording once the session is closed and all chunks are in."""
        while self._token is not None:
            # In this order: what is read of a closed session is final, and so are the rows read after it.
            outlook = self._outlook()
            window = chunks.window_after(self._session.id, self._assembler.looked_to)
            seen_to = window[-1].sequence if window else self._assembler.looked_to
            is_last = outlook.is_closed and seen_to == outlook.total > 0
            if not window and seen_to != outlook.total:
                raise ChunkDamaged(f"The row of chunk {seen_to + 1} is missing.", sequence=seen_to + 1)
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

    def _outlook(self) -> _Outlook:
        session = AudioSession.objects.filter(pk=self._session.id).first()
        if session is None:
            raise ClaimLostError
        return _Outlook(session.total_chunks, not session.is_open)

    def _take(self, window: list[PendingChunk], is_last: bool, outlook: _Outlook) -> None:
        try:
            master = self._opened()
            master.append(self._assembler.take(window, is_last))
            self._assembler.examine(master.path, is_last)
        except PartsDifferError:
            self._start_over()
            return
        master.sync()
        self._extend_peaks(master, is_last)
        self._is_flushed = is_last
        # Nothing waits behind this window: the master is handed over with it.
        is_handed_over = not outlook.is_closed and window[-1].sequence == outlook.total
        self._commit(
            state=RecordingState.BUILDING if outlook.is_closed else RecordingState.LIVE,
            progress=self._assembler.done_to / outlook.total if outlook.is_closed else 0.0,
            **self._position(master),
            **({"token": None} if is_handed_over else {}),
        )
        self._took(master)
        self._tell_clients()
        if is_handed_over:
            self._token = None

    def _tell_clients(self) -> None:
        """Tell those who are connected what is new among the warnings, and the session what its media are."""
        for warning in self._assembler.losses.entries[self._told :]:
            events.recording_warned(self._session.id, warning)
        self._told = len(self._assembler.losses.entries)
        known = {"sample_rate": self._assembler.sample_rate, "channels": self._assembler.channels}
        decided = {name: value for name, value in known.items() if value and name in self._session.undecided}
        if decided:
            AudioSession.objects.filter(pk=self._session.id).decide(**decided)
            self._session.undecided = [name for name in self._session.undecided if name not in decided]

    def _took(self, master: Master) -> None:
        """The row names this master now, with this length; one that it was copied from, to its last byte, goes."""
        name = self._name_of(master)
        before = paths.root() / self._named
        if self._named not in ("", name) and before.exists() and before.stat().st_size <= self._master_bytes:
            before.unlink()
        self._named, self._master_bytes = name, master.size_bytes

    def _extend_peaks(self, master: Master, is_last: bool) -> None:
        """The waveform of what this window has added, while its samples are in memory still."""
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
            "version": _CHECKPOINT_VERSION,
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
        """From stream to files: what was appended so far is the first of them, and is decoded from its chunks."""
        stream, named = self._opened().path, self._named
        self.close()
        self._named, self._master_bytes, self._is_flushed = "", 0, False
        self._assembler, self._told = families.decoding(self._session), 0
        master = self._opened()
        self._commit(**self._position(master))
        stream.unlink(missing_ok=True)
        self._named = named
        self._took(master)

    def _commit(self, **values: Any) -> None:
        """Write to the row; raise ClaimLostError if the token in it is not ours any more."""
        self._is_certain = False
        if not self._mine().update(updated_at=DatabaseNow(), **values):
            raise ClaimLostError
        self._is_certain = True

    def _mine(self) -> QuerySet[Recording]:
        return Recording.objects.filter(pk=self._session.id, token=self._token)

    def give_back(self) -> None:
        """Give up the master as it was committed, because this run could not go on.

        If it is not known whether the last commit was made, the next run copies the master instead.
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
        self._publish(token=None, **ready, **position, **_file(made))
        logger.info("recording_ready", chunks=self._assembler.done_to, **_described(made))
        _conclude(Recording.objects.get(pk=self._session.id))

    def _publish(self, **values: Any) -> None:
        """Replace the session's recording by the new one."""
        self._commit(**values)

    def _tell(self, progress: float) -> None:
        now = time.monotonic()
        if now - self._progress_at >= _PROGRESS_SECONDS:
            self._progress_at = now
            self._commit(progress=progress)

    def fail(self, failure: Failure, kept: Made | None = None) -> None:
        """Any state but ready -> failed; `kept` is what could be made nevertheless."""
        logger.warning("recording_failed", code=failure.code, error=failure.detail)
        rest = self._position(self._opened()) | _file(kept) if kept else {}
        self._commit(
            state=RecordingState.FAILED,
            token=None,
            error_code=failure.code,
            error_detail=failure.detail[:_DETAIL_CHARACTERS],
            failed_sequence=failure.sequence,
            **{"warnings": self._assembler.losses.entries, **rest},
        )


class _Rebuild(_Run):
    """A run over a session whose recording is ready.

    The row stays as it is until this run is complete. So a rebuild that died starts again.
    """

    def __init__(self, session: AudioSession, recording: Recording) -> None:
        super().__init__(session, recording)
        self._values: dict[str, Any] = {}

    def _commit(self, **values: Any) -> None:
        self._values |= values
        if not self._mine().update(updated_at=DatabaseNow()):
            raise ClaimLostError

    def _publish(self, **values: Any) -> None:
        self._is_certain = False
        with transaction.atomic():
            # The session's row first, as whoever inserts a task does.
            AudioSession.objects.select_for_update().filter(pk=self._session.id).first()
            if not self._mine().update(**_NOTHING | self._values | values, updated_at=DatabaseNow()):
                raise ClaimLostError
            derived.forget(self._session.id)
        derived.delete(self._session.id)

    def fail(self, failure: Failure, kept: Made | None = None) -> None:
        """The recording stays ready, and its row says why there is no other."""
        logger.error("rebuild_failed", code=failure.code, error=failure.detail)
        self._commit()
        self._mine().update(
            token=None,
            rebuild_requested_at=None,
            rebuild_error_code=failure.code,
            rebuild_error_detail=failure.detail[:_DETAIL_CHARACTERS],
        )
        self._delete_files()

    def give_back(self) -> None:
        """The next run begins anew."""
        if self._is_certain:
            self._delete_files()

    def _delete_files(self) -> None:
        for path in paths.folder(self._session.id).glob(f"*-{self._token}.*"):
            path.unlink()


def _described(made: Made) -> dict[str, Any]:
    return {"format": made.format, "size_bytes": made.size_bytes, "duration_seconds": round(made.duration_seconds, 3)}


def _file(made: Made) -> dict[str, Any]:
    return {
        "file_name": made.file_name,
        "format": made.format,
        "size_bytes": made.size_bytes,
        "duration_seconds": made.duration_seconds,
    }


def _conclude(recording: Recording) -> None:
    """Do what is left to do with a recording that is ready; its SHA-256 comes last and says that it was done."""
    superseded.tidy(recording.pk)
    add_digest(recording)


def add_digest(recording: Recording) -> None:
    """Add the SHA-256 of a ready recording.

    The header of a recording is written last, so the file has to be read once more. `ready` does not wait for that,
    because the close of a long session must not cost more than that of a short one.
    """
    if not recording.sha256:
        with (paths.root() / recording.file_name).open("rb") as file:
            recording.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        Recording.objects.filter(pk=recording.pk, ready_at=recording.ready_at).update(sha256=recording.sha256)
