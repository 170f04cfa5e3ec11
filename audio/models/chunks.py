"""Chunks, and the journals that hold their bytes."""

from django.db import models
from django.utils import timezone

from audio.models.sessions import AudioSession, AudioSource


class JournalFile(models.Model):
    """A journal. `name` is relative to the storage root.

    If `removed_at` is set, the file may be gone from the disk, and the bytes of its chunks are only in the recordings.
    `checked_at` is the time at which a sweep last found that the file is still needed.
    """

    name = models.CharField(max_length=200, unique=True)
    process_id = models.UUIDField()
    created_at = models.DateTimeField(default=timezone.now)
    checked_at = models.DateTimeField(null=True, blank=True)
    removed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["created_at"], name="journal_present", condition=models.Q(removed_at__isnull=True)),
            models.Index(fields=["removed_at"], name="journal_removed", condition=models.Q(removed_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.name


class JournalErasure(models.Model):
    """A request to erase the records of a deleted session from a journal.

    `erased_at` is the time at which the owner of the journal erased them. The row stays until the file is finished and
    has been searched once more.
    """

    journal = models.ForeignKey(JournalFile, models.CASCADE, related_name="erasures")
    session_id = models.UUIDField()
    erased_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["journal", "session_id"], name="erasure_journal_session")]

    def __str__(self) -> str:
        return f"{self.session_id} in {self.journal_id}"


class AudioChunk(models.Model):
    """The location of an acknowledged chunk.

    `sequence` is its number in the session, counted from one, without holes. `offset` is the offset of the record's
    header in the journal. The foreign keys have no constraint in the database. A constraint would cost a check for
    every chunk, and the commit transaction has just locked or inserted the rows that they name.
    """

    session = models.ForeignKey(
        AudioSession, models.CASCADE, related_name="chunks", db_constraint=False, db_index=False
    )
    sequence = models.BigIntegerField()
    # A source is deleted with its session alone, and so are its chunks. A cascade would search all chunks for them.
    source = models.ForeignKey(AudioSource, models.DO_NOTHING, db_constraint=False, db_index=False)
    journal = models.ForeignKey(JournalFile, models.PROTECT, db_constraint=False, db_index=False)
    offset = models.BigIntegerField()
    size_bytes = models.IntegerField()
    crc32 = models.BigIntegerField()
    received_at = models.DateTimeField()

    class Meta:
        ordering = ["sequence"]
        constraints = [
            models.UniqueConstraint(fields=["session", "sequence"], name="chunk_session_sequence"),
            models.UniqueConstraint(fields=["journal", "offset"], name="chunk_journal_offset"),
        ]

    def __str__(self) -> str:
        return f"{self.session_id} {self.sequence}"
