r"""The execution of runs: the pending chunks of a session become its recording, by one run at a time (`session_lock`).

A run claims the row of the recording with a token of its own (`audio.assembly.run`). If the recording is ready, it is a
rebuild (`audio.assembly.rebuild`).

    empty --commit--> live --commit, closed--> building --complete--> ready
                        \____________________________fail__________> failed
"""

import contextlib
import uuid

import structlog
from django.core.exceptions import ObjectDoesNotExist
from django.db import IntegrityError
from structlog.contextvars import bound_contextvars

from audio.admission import Admission
from audio.assembly import chunks, superseded
from audio.assembly.conclusion import conclude
from audio.assembly.losses import Failure
from audio.assembly.master import Master
from audio.assembly.rebuild import Rebuild
from audio.assembly.run import CHECKPOINT_VERSION, ClaimLostError, Run
from audio.errors import MediaError
from audio.models import AudioSession, Recording, RecordingState
from audio.storage import paths
from audio.storage.lock import session_lock

logger = structlog.stdlib.get_logger(__name__)


def concatenate(session_id: uuid.UUID) -> None:
    """Process all pending chunks of a session.

    If another run has the session's lock, the function returns at once. After it has released the lock, it looks for
    new chunks. An error in the audio makes the recording `failed`. Any other error is raised, and the same call may
    succeed later.
    """
    with bound_contextvars(session_id=str(session_id)):
        while _run_once(session_id) and _has_work(session_id):
            pass


def _run_once(session_id: uuid.UUID) -> bool:
    """Work until nothing is left, and return whether the lock was acquired."""
    if not AudioSession.objects.filter(pk=session_id).exists():
        return False
    try:
        with session_lock(session_id) as is_ours:
            if is_ours:
                _work(session_id)
            return is_ours
    except ClaimLostError:
        logger.info("claim_lost")
        return False
    except (ObjectDoesNotExist, IntegrityError):
        # The rows of a session that is deleted meanwhile are gone.
        if AudioSession.objects.filter(pk=session_id).exists():
            raise
        logger.info("claim_lost")
        return False


def _work(session_id: uuid.UUID) -> None:
    session = _decided(session_id)
    recording, _ = Recording.objects.get_or_create(session=session)
    if recording.state == RecordingState.READY and not recording.sha256:
        conclude(recording)
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
    """Return the session. Its first bytes decide its format if neither the client nor the connection did.

    Raises:
        ClaimLostError: It was deleted.
    """
    session = AudioSession.objects.filter(pk=session_id).first()
    if session is None:
        raise ClaimLostError
    if "format" in session.undecided and session.total_chunks:
        admission = Admission(session.format, session.chunk_mode, is_undecided=True)
        # The run that needs a missing row reports it.
        with contextlib.suppress(MediaError):
            for chunk in chunks.read(chunks.window_after(session_id, 0), lambda *_: b""):
                admission.rejection(chunk.payload)
                if admission.found:
                    break
        if admission.found or not session.is_open:
            AudioSession.objects.filter(pk=session_id).decide(format=admission.found or admission.conclude())
            session.refresh_from_db()
    return session


def _claimed(session: AudioSession) -> Run:
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
        return Rebuild(session, Recording(session=session, token=token))
    recording.refresh_from_db()
    return run_of(session, recording, is_handed_over=before is None)


def run_of(session: AudioSession, recording: Recording, is_handed_over: bool) -> Run:
    """Return the run that continues a recording.

    Args:
        session: The session.
        recording: Its recording, claimed by the run.
        is_handed_over: Whether the previous run has ended.
    """
    if recording.checkpoint.get("version") != CHECKPOINT_VERSION or not _has_master(recording):
        # There is no master yet, or its checkpoint is of another version, or its file is missing because an older
        # backup of the database was restored. The run begins with the first chunk.
        return Run(session, Recording(session=session, token=recording.token))
    return Run(session, recording, is_handed_over)


def _has_master(recording: Recording) -> bool:
    """Whether the file that the row names exists, with the committed length."""
    return not recording.master_name or Master.holds(paths.root() / recording.master_name, recording.master_bytes)


def _has_work(session_id: uuid.UUID) -> bool:
    """Whether there are chunks or a close that the last run did not see, or a rebuild was requested."""
    session = AudioSession.objects.select_related("recording").filter(pk=session_id).first()
    if session is None or session.recording.state == RecordingState.FAILED:
        return False
    recording = session.recording
    if "format" in session.undecided and session.is_open:
        return False
    if recording.state == RecordingState.READY:
        return recording.rebuild_requested_at is not None
    return session.total_chunks > recording.looked_to or (session.total_chunks > 0 and not session.is_open)
