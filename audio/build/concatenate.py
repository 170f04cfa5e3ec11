"""Concatenation: a session's chunks into its master, window by window, and at the end into the recording.

One run at a time (`session_lock`). A run claims the row with a token of its own and commits only while that
token stands. The order of a window: write, fsync, commit the new length; so a run that dies leaves bytes behind
the committed length, which the next one cuts off, and no sample is lost or doubled.

    empty --commit--> live --commit, closed--> building --complete--> ready
                        \\____________________________fail__________> failed
"""

import hashlib
import time
import uuid
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import transaction
from django.utils import timezone
from structlog.contextvars import bound_contextvars

from audio.build import chunks, finish, routes, store, waveform
from audio.build.chunks import Waiting
from audio.build.lock import session_lock
from audio.build.master import Master
from audio.errors import ChunkDamaged, ChunksReleased, MediaError
from audio.media import wav
from audio.models import AudioSession, Recording, RecordingState

logger = structlog.stdlib.get_logger(__name__)

_PROGRESS_SECONDS = 1.0
_DETAIL_CHARACTERS = 500


class ClaimLost(Exception):
    """Another run has claimed the recording, or it is gone: this one may commit nothing more."""


def concatenate(session_id: uuid.UUID) -> None:
    """Takes a session's id; brings its recording as far as the chunks that are there allow.

    Returns at once if another run holds the session, and looks again after letting go of it. A fault of the media
    sets the recording's state to `failed`; any other error is raised, and the same call may succeed later.
    """
    with bound_contextvars(session_id=str(session_id)):
        while _run(session_id) and _has_work(session_id):
            pass


def rebuild(session_id: uuid.UUID) -> None:
    """Forgets what was concatenated, so that the next run makes the recording anew from the chunks.

    Raises ChunksReleased where they are not all there any more; the recording then stays.
    """
    with transaction.atomic():
        # Locked, so that no sweep finds the recording ready and gives up its chunks in between.
        Recording.objects.select_for_update().filter(pk=session_id).first()
        if chunks.are_released(session_id):
            raise ChunksReleased
        Recording.objects.filter(pk=session_id).update(
            state=RecordingState.EMPTY, token=None, master_name="", master_encoding="", master_bytes=0, chunks_done=0,
            carry={}, progress=0.0, file_name="", size_bytes=None, duration_seconds=None, sha256="", ready_at=None,
            verified_at=None, is_void=False, remote_at=None, is_local=True, error_code="", error_detail="",
            failed_sequence=None, updated_at=timezone.now(),
        )  # fmt: skip
    store.forget_derived(session_id)


def _run(session_id: uuid.UUID) -> bool:
    """Works until nothing is left; returns whether the session was ours to work on."""
    if not _exists(session_id):
        return False
    try:
        with session_lock(session_id) as is_ours:
            if is_ours:
                _work(session_id)
            return is_ours
    except ClaimLost:
        logger.info("claim_lost")
        return False
    finally:
        # Deleted meanwhile: whatever this run, or its lock alone, has put there again goes too.
        if not _exists(session_id):
            store.delete_files(session_id)


def _exists(session_id: uuid.UUID) -> bool:
    return AudioSession.objects.filter(pk=session_id).exists()


def _work(session_id: uuid.UUID) -> None:
    session = AudioSession.objects.filter(pk=session_id).first()
    if session is None:
        raise ClaimLost
    recording, _ = Recording.objects.get_or_create(session=session)
    if recording.state == RecordingState.READY:
        add_digest(recording)
    if not _has_work(session_id):
        return
    store.clear_leftovers(session_id)
    run = _Run(session, _claimed(recording))
    try:
        run.to_the_end()
    except MediaError as error:
        if error.retryable:
            raise
        run.fail(error)
    finally:
        run.close()


def _claimed(recording: Recording) -> Recording:
    recording.token = uuid.uuid4()
    unfinished = Recording.objects.filter(pk=recording.pk).exclude(
        state__in=[RecordingState.READY, RecordingState.FAILED]
    )
    if not unfinished.update(token=recording.token):
        raise ClaimLost
    recording.refresh_from_db()
    return recording


def _has_work(session_id: uuid.UUID) -> bool:
    """Whether chunks or a close arrived that the last run did not see."""
    session = AudioSession.objects.select_related("recording").filter(pk=session_id).first()
    if session is None or session.recording.state in (RecordingState.READY, RecordingState.FAILED):
        return False
    recording = session.recording
    looked_to = max(recording.chunks_done, recording.carry.get("looked_to", 0))
    return session.total_chunks > looked_to or (session.total_chunks > 0 and not session.is_open)


@dataclass(frozen=True, slots=True)
class _Outlook:
    """How many chunks the session has, and whether more may come."""

    total: int
    is_closed: bool


class _Run:
    """One run over one session, from the claim to its end."""

    def __init__(self, session: AudioSession, recording: Recording) -> None:
        self._session = session
        self._token = recording.token
        self._is_flushed = bool(recording.carry.get("is_flushed"))
        known = store.master_format_of(session, recording)
        self._route = routes.restore(session, known, recording.chunks_done, recording.carry)
        self._master_bytes = recording.master_bytes
        self._master: Master | None = None
        self._progress_at = 0.0

    def close(self) -> None:
        """Closes the master."""
        if self._master is not None:
            self._master.close()
            self._master = None

    def to_the_end(self) -> None:
        """Takes windows while chunks wait; makes the recording when the session is closed and all are in."""
        while True:
            # In this order: what is read of a closed session is final, and so are the rows read after it.
            outlook = self._outlook()
            window = chunks.window_after(self._session.id, self._route.looked_to)
            seen_to = window[-1].sequence if window else self._route.looked_to
            is_last = outlook.is_closed and seen_to == outlook.total > 0
            if not window and seen_to != outlook.total:
                raise ChunkDamaged(f"The row of chunk {seen_to + 1} is missing.", sequence=seen_to + 1)
            if not window and (not is_last or self._is_flushed):
                break
            self._take(window, is_last, outlook)
        if outlook.is_closed and self._is_flushed and self._route.done_to == outlook.total:
            self._complete()

    def _outlook(self) -> _Outlook:
        session = AudioSession.objects.filter(pk=self._session.id).first()
        if session is None:
            raise ClaimLost
        return _Outlook(session.total_chunks, not session.is_open)

    def _take(self, window: list[Waiting], is_last: bool, outlook: _Outlook) -> None:
        try:
            master = self._opened()
            master.append(self._route.take(window, is_last))
            if isinstance(self._route, routes.StreamRoute):
                self._route.compare(master.path, is_last)
        except routes.SecondPart:
            self._start_over()
            return
        master.sync()
        self._extend_peaks(master, is_last)
        self._is_flushed = is_last
        self._commit(
            state=RecordingState.BUILDING if outlook.is_closed else RecordingState.LIVE,
            progress=self._route.done_to / outlook.total if outlook.is_closed else 0.0,
            **self._position(master),
        )
        self._master_bytes = master.size_bytes

    def _extend_peaks(self, master: Master, is_last: bool) -> None:
        """The waveform of what this window has added, while its samples are in memory still."""
        if self._route.encoding:
            pcm = store.master_format(self._session, self._route.encoding)
            before, now = (max(0, size - wav.HEADER_BYTES) for size in (self._master_bytes, master.size_bytes))
            waveform.extend(store.peaks_path(self._session.id), master.path, pcm, before, now, is_last)

    def _opened(self) -> Master:
        if self._master is None:
            path = store.folder(self._session.id) / f"master.{self._route.suffix}"
            self._master = Master(path, self._master_bytes)
        return self._master

    def _position(self, master: Master) -> dict[str, Any]:
        carry = {"route": routes.name_of(self._route).value, "is_flushed": self._is_flushed, **self._route.carry()}
        return {
            "master_name": f"{store.folder_name(self._session.id)}/{master.path.name}",
            "master_bytes": master.size_bytes,
            "master_encoding": self._route.encoding,
            "chunks_done": self._route.done_to,
            "carry": carry,
        }

    def _start_over(self) -> None:
        """From stream to files: what was appended so far is the first of them, and is decoded from its chunks."""
        self.close()
        self._master_bytes, self._is_flushed = 0, False
        self._route = routes.FilesRoute(self._session, None, 0, {})
        self._commit(**self._position(self._opened()))

    def _commit(self, **values: Any) -> None:
        """Writes to the row while the token in it is ours, else raises ClaimLost."""
        mine = Recording.objects.filter(pk=self._session.id, token=self._token)
        if not mine.update(updated_at=timezone.now(), **values):
            raise ClaimLost

    def _complete(self) -> None:
        """building -> ready; or, where some of it could not be decoded, building -> failed, with the rest kept."""
        try:
            made = finish.finish(self._session, self._route, self._opened(), self._tell)
        except routes.SecondPart:
            self._start_over()
            self.to_the_end()
            return
        if lacking := self._route.undecodable.error:
            self.fail(lacking, made)
            return
        self._commit(
            state=RecordingState.READY, progress=1.0, token=None, ready_at=timezone.now(), carry={}, **_file(made)
        )
        logger.info("recording_ready", chunks=self._route.done_to, **_described(made))
        finish.clean(self._session, made, self._route)
        add_digest(Recording.objects.get(pk=self._session.id))

    def _tell(self, progress: float) -> None:
        now = time.monotonic()
        if now - self._progress_at >= _PROGRESS_SECONDS:
            self._progress_at = now
            self._commit(progress=progress)

    def fail(self, error: MediaError, kept: finish.Made | None = None) -> None:
        """Any state but ready -> failed; `kept` is what could be made nevertheless."""
        logger.warning("recording_failed", code=error.code, error=error.detail)
        self._commit(
            state=RecordingState.FAILED,
            token=None,
            error_code=error.code,
            error_detail=error.detail[:_DETAIL_CHARACTERS],
            failed_sequence=error.details.get("sequence"),
            **(_file(kept) if kept else {}),
        )


def _described(made: finish.Made) -> dict[str, Any]:
    return {"format": made.format, "size_bytes": made.size_bytes, "duration_seconds": round(made.duration_seconds, 3)}


def _file(made: finish.Made) -> dict[str, Any]:
    return {
        "file_name": made.file_name,
        "format": made.format,
        "size_bytes": made.size_bytes,
        "duration_seconds": made.duration_seconds,
    }


def add_digest(recording: Recording) -> None:
    """Adds the SHA-256 of a ready recording. Its header is written last, so the file has to be read once; `ready`
    does not wait for that, because closing a long session must cost no more than closing a short one."""
    if not recording.sha256:
        with (store.root() / recording.file_name).open("rb") as file:
            recording.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        Recording.objects.filter(pk=recording.pk, ready_at=recording.ready_at).update(sha256=recording.sha256)
