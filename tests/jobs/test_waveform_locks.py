"""The waveform that the windows leave is kept while the session may be deleted at the same moment."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from audio import upkeep
from audio.jobs import peaks, recording
from audio.models import AudioSession, BackgroundTask
from audio.storage.paths import folder
from tests.server import eventually
from tests.sound import cut, speech

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


def _somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


def test_keeping_a_waveform_and_deleting_its_session_do_not_wait_for_one_another(stored, monkeypatch):
    session = stored(format="wav")
    session.add(cut(speech(2).tobytes(), 3200))
    session.close()
    key, reached = session.session.pk, threading.Event()
    record = peaks._record_waveform

    def while_it_is_deleted(*arguments):
        reached.set()
        if connection.vendor == "postgresql":
            eventually(_somebody_waits_for_a_lock)
        record(*arguments)

    def in_thread(function):
        try:
            function(key)
        finally:
            connection.close()

    monkeypatch.setattr(peaks, "_record_waveform", while_it_is_deleted)
    with ThreadPoolExecutor(2) as threads:
        keeping = threads.submit(in_thread, recording.make_recording)
        assert reached.wait(60)
        deleting = threads.submit(in_thread, upkeep.delete_session)
    assert (keeping.result(), deleting.result()) == (None, None)
    assert not AudioSession.objects.filter(pk=key).exists()
    assert not BackgroundTask.objects.filter(session=key).exists()
    assert not folder(key).exists()
