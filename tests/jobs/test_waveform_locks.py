"""The waveform that the windows leave is kept while the session may be deleted at the same moment."""

import threading

import pytest
from django.db import connection

from audio import upkeep
from audio.jobs import peaks, recording
from audio.models import AudioSession, BackgroundTask
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
    key, errors, reached = session.session.pk, [], threading.Event()
    record = peaks._record_waveform

    def while_it_is_deleted(*arguments):
        reached.set()
        if connection.vendor == "postgresql":
            eventually(_somebody_waits_for_a_lock)
        record(*arguments)

    def in_thread(function):
        try:
            function(key)
        except Exception as error:  # noqa: BLE001 - whatever ends a thread fails the test
            errors.append(error)
        finally:
            connection.close()

    monkeypatch.setattr(peaks, "_record_waveform", while_it_is_deleted)
    keeping = threading.Thread(target=in_thread, args=(recording.make_recording,))
    keeping.start()
    assert reached.wait(60)
    deleting = threading.Thread(target=in_thread, args=(upkeep.delete_session,))
    deleting.start()
    keeping.join()
    deleting.join()
    assert errors == []
    assert not AudioSession.objects.filter(pk=key).exists()
    assert not BackgroundTask.objects.filter(session=key).exists()
