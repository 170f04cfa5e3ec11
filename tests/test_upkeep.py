"""Upkeep on real rows, files and journals."""

import uuid

import pytest

from audio import upkeep
from audio.build import store
from audio.build.concatenate import concatenate
from audio.build.store import folder
from audio.models import AudioSession
from tests.build.conftest import stored

pytestmark = pytest.mark.database
__all__ = ["stored"]


def test_a_worker_that_goes_on_during_a_deletion_leaves_no_files(stored, monkeypatch):
    session = stored(format="wav")
    session.add([bytes(3200)])
    concatenate(session.session.pk)
    delete_files = store.delete_files

    def a_run_comes_between(session_id: uuid.UUID) -> None:
        delete_files(session_id)
        concatenate(session_id)

    monkeypatch.setattr(store, "delete_files", a_run_comes_between)
    upkeep.delete_session(session.session.pk)
    assert not AudioSession.objects.filter(pk=session.session.pk).exists()
    assert not folder(session.session.pk).exists()
