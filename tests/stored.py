"""Sessions as the ingest leaves them: chunks in a real journal, rows in the database."""

import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path

from django.utils import timezone

from audio.assembly.concatenate import concatenate
from audio.journal.files import JournalWriter
from audio.journal.records import RecordType, pack_header
from audio.models import AudioChunk, AudioSession, AudioSource, JournalFile, Recording


class Stored:
    """A session and the journal that its chunks are in."""

    def __init__(self, root: Path, **parameters) -> None:
        self.root = root
        self.session = AudioSession.objects.create(**{"sample_rate": 16000, "channels": 1, **parameters})
        Recording.objects.create(session=self.session)
        self._writer = JournalWriter(root, uuid.uuid4(), 1)
        self._file = JournalFile.objects.create(name=self._writer.name, process_id=uuid.uuid4())

    @property
    def recording(self) -> Recording:
        return Recording.objects.get(pk=self.session.pk)

    @property
    def path(self) -> Path:
        return self.root / self.recording.file_name

    def add(self, payloads: Iterable[bytes], source: str = "") -> None:
        row, _ = AudioSource.objects.get_or_create(session=self.session, name=source)
        total, rows, buffers, end = self.session.total_chunks, [], [], self._writer.end
        for payload in payloads:
            total += 1
            crc32 = zlib.crc32(payload)
            header = pack_header(RecordType.CHUNK, crc32, len(payload), self.session.id.bytes, row.pk, total)
            rows.append(
                AudioChunk(
                    session=self.session, sequence=total, source=row, journal=self._file, offset=end,
                    size_bytes=len(payload), crc32=crc32, received_at=timezone.now(),
                )
            )  # fmt: skip
            buffers += [header, payload]
            end += len(header) + len(payload)
        self._writer.append(buffers)
        AudioChunk.objects.bulk_create(rows, batch_size=1000)
        self.session.total_chunks = total
        self.session.save(update_fields=["total_chunks"])

    def close(self) -> None:
        AudioSession.objects.filter(pk=self.session.pk).close()

    def made(self) -> Recording:
        """Closes the session and makes its recording."""
        self.close()
        concatenate(self.session.pk)
        return self.recording

    def release(self) -> None:
        self._writer.close()
