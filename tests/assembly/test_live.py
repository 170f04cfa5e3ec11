"""Windows of many open sessions at once: what they make, what they cost, and which sessions they leave alone."""

import os
import uuid

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from audio.assembly import live
from audio.assembly.concatenate import concatenate
from audio.media import wav
from audio.media.samples import PcmFormat
from audio.models import AudioSession, JournalFile, Marker, Recording
from audio.storage import paths
from audio.storage.lock import session_lock
from tests.recorded import corrupt
from tests.sound import cut, encoded_live, speech

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


def keys(sessions) -> list[uuid.UUID]:
    return [each.session.pk for each in sessions]


def sessions_with(stored, payloads, count: int, **parameters):
    made = [stored(format="wav", **parameters) for _ in range(count)]
    for each in made:
        each.add(payloads)
    return made


@pytest.mark.parametrize("audio_format", ["wav", "mp3", "flac", "ogg"])
def test_windows_of_many_sessions_make_what_each_would_make_alone(stored, audio_format):
    halves = []
    for seed in range(4):
        samples = speech(3, seed=seed)
        data = samples.tobytes() if audio_format == "wav" else encoded_live(samples, 16000, audio_format)
        halves.append((data[: len(data) // 2 + 1], data[len(data) // 2 + 1 :]))
    together, alone = ([stored(format=audio_format) for _ in halves] for _ in range(2))
    for half in range(2):
        for session, other, sound in zip(together, alone, halves, strict=True):
            session.add(cut(sound[half], 999))
            other.add(cut(sound[half], 999))
            concatenate(other.session.pk)
        assert live.extend(keys(together)) == []
        for session, other in zip(together, alone, strict=True):
            made, expected = session.recording, other.recording
            assert (made.state, made.token) == ("live", None)
            for name in ("master_bytes", "master_encoding", "sample_rate", "channels", "chunks_done", "looked_to"):
                assert getattr(made, name) == getattr(expected, name)
            master = (session.root / made.master_name).read_bytes()
            assert master == (other.root / expected.master_name).read_bytes()
    for session, other in zip(together, alone, strict=True):
        assert (session.made().state, other.made().state) == ("ready", "ready")
        if audio_format != "ogg":  # a container contains random numbers
            assert session.path.read_bytes() == other.path.read_bytes()
        if audio_format == "wav":
            assert paths.peaks_path(session.recording).read_bytes() == paths.peaks_path(other.recording).read_bytes()


def test_the_statements_do_not_grow_with_the_sessions(stored):
    counts = []
    for count in (1, 30):
        made = sessions_with(stored, [bytes(3200)] * 5, count)
        live.extend(keys(made))
        for each in made:
            each.add([bytes(3200)] * 5)
        with CaptureQueriesContext(connection) as queries:
            assert live.extend(keys(made)) == []
        counts.append(len(queries))
        assert all(each.recording.chunks_done == 10 for each in made)
    assert counts[0] == counts[1] <= 10


def test_a_session_costs_one_sync_and_few_files(stored, monkeypatch):
    made = sessions_with(stored, [bytes(3200)] * 5, 10)
    live.extend(keys(made))
    for each in made:
        each.add([bytes(3200)] * 100)
    syncs, opened = [], []
    fsync, open_file = os.fsync, os.open
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: syncs.append(handle) or fsync(handle))
        patch.setattr(os, "open", lambda *how, **more: opened.append(how[0]) or open_file(*how, **more))
        assert live.extend(keys(made)) == []
    assert len(syncs) == len(made)
    # The lock, the master and the journal.
    assert len(opened) == 3 * len(made)


def test_sessions_without_pending_chunks_cost_one_statement(stored):
    made = sessions_with(stored, [bytes(3200)], 5)
    live.extend(keys(made))
    with CaptureQueriesContext(connection) as queries:
        assert live.extend([*keys(made), uuid.uuid4()]) == []
    assert len(queries) == 1


def test_what_media_decide_is_stored_with_the_first_window(stored):
    (session,) = sessions_with(stored, [wav.header(PcmFormat("s16le", 48000, 2), 64) + bytes(64)], 1)
    AudioSession.objects.filter(pk=session.session.pk).update(undecided=["sample_rate", "channels"])
    assert live.extend(keys([session])) == []
    row = AudioSession.objects.get(pk=session.session.pk)
    assert (row.sample_rate, row.channels, row.undecided) == (48000, 2, [])


def test_a_session_that_needs_a_run_of_its_own_is_named_and_untouched(stored):
    plain, files, marked, died = sessions_with(stored, [bytes(3200)], 4)
    AudioSession.objects.filter(pk=files.session.pk).update(format="mp3", chunk_mode="files")
    Marker.objects.create(session=marked.session, label="here", after_sequence=1)
    Recording.objects.filter(pk=died.session.pk).update(token=uuid.uuid4())
    alone = live.extend(keys([plain, files, marked, died]))
    assert set(alone) == set(keys([files, marked, died]))
    assert plain.recording.chunks_done == 1
    assert [each.recording.chunks_done for each in (files, marked, died)] == [0, 0, 0]
    assert marked.recording.token is None
    concatenate(marked.session.pk)
    assert Marker.objects.get().position_seconds == 0.1


def test_a_window_that_fails_leaves_its_session_as_it_was(stored):
    good, bad = sessions_with(stored, [bytes(3200)] * 2, 2)
    live.extend(keys([good, bad]))
    before, path = bad.recording, bad.root / bad.recording.master_name
    for each in (good, bad):
        each.add([bytes(3200)])
    (bad.root / bad._writer.name).unlink()
    JournalFile.objects.filter(pk=bad._file.pk).update(removed_at=timezone.now())
    assert live.extend(keys([good, bad])) == keys([bad])
    assert (good.recording.chunks_done, bad.recording.chunks_done) == (3, 2)
    assert (path.stat().st_size, bad.recording.token) == (before.master_bytes, None)


def test_a_damaged_chunk_is_told_and_replaced_by_silence(stored):
    session, other = sessions_with(stored, [b"\1" * 3200] * 3, 2)
    corrupt(session.root / session._writer.name, 200)
    assert live.extend(keys([session, other])) == []
    assert [warning["code"] for warning in session.recording.warnings] == ["chunk_damaged"]
    assert other.recording.warnings == []
    assert session.recording.master_bytes == other.recording.master_bytes


def test_a_session_at_which_another_run_works_is_left_to_it(stored):
    busy, free = sessions_with(stored, [bytes(3200)], 2)
    with session_lock(busy.session.pk) as is_ours:
        assert is_ours
        assert live.extend(keys([busy, free])) == []
    assert (busy.recording.chunks_done, free.recording.chunks_done) == (0, 1)


@pytest.mark.parametrize("happens", ["closed", "deleted"])
def test_what_happens_to_a_session_during_its_window(stored, monkeypatch, happens):
    session, other = sessions_with(stored, [bytes(3200)], 2)
    commit = live._commit

    def first(*arguments) -> None:
        chosen = AudioSession.objects.filter(pk=session.session.pk)
        if happens == "closed":
            chosen.close()
        else:
            chosen.delete()
        commit(*arguments)

    monkeypatch.setattr(live, "_commit", first)
    alone = live.extend(keys([session, other]))
    assert other.recording.chunks_done == 1
    if happens == "closed":
        # The task of the close found the session locked, so that nobody else would finish it.
        assert alone == keys([session])
    else:
        assert alone == []
        assert not paths.folder(session.session.pk).exists()
