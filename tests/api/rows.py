"""Rows as ingest and build leave them, for tests of what REST shows of them."""

from datetime import timedelta
from uuid import uuid4

from django.utils import timezone

from audio.models import AudioChunk, AudioConnection, AudioSession, AudioSource, IngestProcess, JournalFile, Recording


def make_session(recording=None, **fields):
    """A session with a recording in the state that `recording` describes."""
    session = AudioSession.objects.create(**{"sample_rate": 16000, "channels": 1, "format": "wav", **fields})
    Recording.objects.create(session=session, **(recording or {}))
    return session


def make_sessions(count):
    """Sessions a second apart; the newest is the first of those returned."""
    now = timezone.now()
    return [make_session(start_time=now - timedelta(seconds=number)) for number in range(count)]


def make_chunks(session, count, source="", size_bytes=3200):
    """`count` chunks of one source, after those that the session has."""
    journal, _ = JournalFile.objects.get_or_create(name="journal/1", defaults={"process_id": uuid4()})
    producer, _ = AudioSource.objects.get_or_create(session=session, name=source)
    first = session.total_chunks
    offset = AudioChunk.objects.count()
    AudioChunk.objects.bulk_create(
        AudioChunk(
            session=session,
            sequence=first + number + 1,
            source=producer,
            journal=journal,
            offset=(offset + number) * (size_bytes + 64),
            size_bytes=size_bytes,
            crc32=0,
            received_at=timezone.now(),
        )
        for number in range(count)
    )
    session.total_chunks += count
    session.byte_count += count * size_bytes
    session.save()


def connect(session):
    """One more open connection."""
    process = IngestProcess.objects.create(host="host", pid=1)
    source, _ = AudioSource.objects.get_or_create(session=session, name="")
    AudioConnection.objects.create(session=session, source=source, process=process, epoch=0)
