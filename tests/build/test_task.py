"""The task by its name, as the broker calls it: thin, repeatable, asked for by dispatch."""

import uuid
import wave

from celery import current_app

from audio import dispatch
from tests.sound import cut, speech


def call(session_id: uuid.UUID) -> None:
    current_app.loader.import_default_modules()
    current_app.tasks[dispatch.CONCATENATE].apply(args=(str(session_id),), throw=True)


def test_the_task_makes_the_recording_and_may_be_repeated(stored):
    samples = speech(1).tobytes()
    session = stored(format="wav")
    session.add(cut(samples, 3200))
    call(session.session.pk)
    session.close()
    for _ in range(2):
        call(session.session.pk)
    assert session.recording.state == "ready"
    with wave.open(str(session.path)) as file:
        assert file.readframes(file.getnframes()) == samples


def test_an_unknown_session_is_done_at_once(stored):
    call(uuid.uuid4())
