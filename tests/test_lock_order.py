"""Transactions lock rows in one order (`audio.models`), so that no two wait for each other in a circle."""

import re
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from audio import ingest, upkeep
from audio.assembly.concatenate import concatenate
from audio.assembly.rebuild import rebuild
from audio.ingest import heartbeat, sessions
from audio.ingest.clock import ClockSet, ClockWatch
from audio.integrity.reindex import reindex
from audio.jobs import recording
from audio.models import JournalFile, Recording
from tests.recorded import Recorded

pytestmark = pytest.mark.database

ORDER = (
    "audiosession", "audiosource", "ingestprocess", "audioconnection", "recording", "backgroundtask", "audiochunk",
    "journalfile", "journalerasure", "deletedsession",
)  # fmt: skip
_LOCKING = re.compile(r'^(?:SELECT .*? FROM "audio_(\w+)".* FOR UPDATE|UPDATE "audio_(\w+)"|INSERT INTO "audio_(\w+)")')
# An INSERT locks what its foreign keys name; nobody else can see the row itself.
_NAMED = {
    "audiosource": ["audiosession"], "backgroundtask": ["audiosession"], "recording": ["audiosession"],
    "audioconnection": ["audiosession", "audiosource", "ingestprocess"], "journalerasure": ["journalfile"],
}  # fmt: skip


class Locks:
    """The tables whose rows a transaction has locked, in the order in which it did."""

    def __init__(self, monkeypatch) -> None:
        self.transactions: list[list[str]] = [[]]
        leave = transaction.Atomic.__exit__

        def left(atomic, *exception):
            leave(atomic, *exception)
            if not connection.in_atomic_block:
                self.transactions.append([])

        monkeypatch.setattr(transaction.Atomic, "__exit__", left)

    def __call__(self, execute, sql, params, many, context):
        found = _LOCKING.match(sql)
        if found and connection.in_atomic_block:
            self.transactions[-1] += _NAMED.get(found[3], []) if found[3] else [found[1] or found[2]]
        return execute(sql, params, many, context)

    def out_of_order(self) -> list[list[str]]:
        """The transactions that have locked a table for the first time behind a later one."""
        firsts = [[name for name in dict.fromkeys(tables) if name in ORDER] for tables in self.transactions]
        return [names for names in firsts if names != sorted(names, key=ORDER.index)]


def live_and_die(recorded: Recorded) -> None:
    """What happens to sessions, once."""
    producer = recorded.open("one")
    recorded.store(producer, b"\0" * 320)
    heartbeat._heartbeat(recorded.processes[0].id, {}, {}, ClockWatch())
    now = timezone.now()
    sessions.restart_ages(ClockSet(now, now, now), recorded.processes[0].id, {producer.session_id})
    again = recorded.resume(producer, "one")
    recorded.store(again, b"\1" * 320)
    ingest.close_session(producer.session_id)
    recording.make_recording(producer.session_id)
    rebuild(producer.session_id)
    concatenate(producer.session_id)
    sessions.remove_process(recorded.processes[0].id)
    recorded.stop()
    reindex()
    long_ago = timezone.now() - timedelta(days=100)
    JournalFile.objects.update(created_at=long_ago)
    Recording.objects.update(ready_at=long_ago)
    upkeep.sweep_all()
    upkeep.delete_session(producer.session_id)
    upkeep.sweep_all()


def test_rows_are_locked_in_one_order(recorded, monkeypatch):
    locks = Locks(monkeypatch)
    with connection.execute_wrapper(locks):
        live_and_die(recorded)
    assert any(len(set(tables)) > 1 for tables in locks.transactions)
    assert locks.out_of_order() == []
