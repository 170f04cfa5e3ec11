"""Recordings in S3: Django's storage by django-storages, and what it lacks: reading a span, and emptying a folder.

Only this module speaks to S3 and knows its library. It is imported when RECORDINGS_STORAGE names a bucket, and not
before: boto3 takes its time and some memory. Whatever keeps S3 from answering is StorageUnavailable, and an object
that is not there is a FileNotFoundError, as a file would be.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.core.files import File
from storages.backends.s3 import S3Storage

from audio.errors import ObjectDamaged, StorageUnavailable

logger = structlog.stdlib.get_logger(__name__)

_BLOCK_BYTES = 1 << 20
_MISSING = "NoSuchKey"
_TOO_SHORT = "InvalidRange"
# A span that gets this often no further is given up.
_ATTEMPTS = 3
_CLIENT = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=50,
    # Many a server that speaks S3 does not know the newer checksums; what counts here is the SHA-256 of the whole.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)
# One part after the other, so that memory does not grow with the recording.
_TRANSFER = TransferConfig(use_threads=False)


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turns what the library raises into FileNotFoundError, ObjectDamaged or StorageUnavailable, with its reason in
    the log."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == _MISSING:
            raise FileNotFoundError(f"{name} is not in the storage") from error
        if code == _TOO_SHORT:
            raise ObjectDamaged from error
        logger.warning("storage_refused", name=name, error=str(error))
        raise StorageUnavailable from error
    except (BotoCoreError, Boto3Error) as error:
        logger.warning("storage_away", name=name, error=str(error))
        raise StorageUnavailable from error


class RecordingsStorage(S3Storage):  # type: ignore[misc]  # django-storages is not typed
    """A bucket, or a folder in one, with an object for each recording, named as its file is under the storage root."""

    def get_default_settings(self) -> dict[str, Any]:
        """Limits on time and memory, in place of the library's."""
        defaults: dict[str, Any] = super().get_default_settings()
        path_style = Config(s3={"addressing_style": "path"})
        return defaults | {
            # Servers of one's own seldom have a host name for each bucket.
            "client_config": _CLIENT.merge(path_style) if defaults["endpoint_url"] else _CLIENT,
            "transfer_config": _TRANSFER,
        }

    @property
    def client(self) -> Any:
        """The one client of the process, which all threads may use; a resource belongs to a single thread."""
        return self.bucket.meta.client

    def key(self, name: str) -> str:
        """Returns the key of the object with that name."""
        key: str = self._normalize_name(name)
        return key

    def reach(self) -> None:
        """Ask for what a deletion asks for, and end the connections.

        Raises:
            StorageUnavailable: The server, or the key, refuses it.
        """
        with _translated(self.bucket_name), contextlib.closing(self.client):
            self.client.list_objects_v2(Bucket=self.bucket_name, Prefix=self.key(""), MaxKeys=1)
            self.client.list_multipart_uploads(Bucket=self.bucket_name, Prefix=self.key(""), MaxUploads=1)

    def put(self, name: str, path: Path) -> None:
        """Uploads a file as the object `name`, in the place of any other; it is not verified."""
        with _translated(name), path.open("rb") as file:
            self.save(name, File(file))

    def verify(self, name: str, size_bytes: int, sha256: str) -> None:
        """Reads the whole object back; raises ObjectDamaged if it has not that size and SHA-256."""
        with self.open_span(name, 0, size_bytes) as reader:
            _copied(reader, size_bytes, sha256, lambda _: None)

    def fetch(self, name: str, path: Path, size_bytes: int, sha256: str, on_block: Callable[[], None]) -> None:
        """Writes the object to a file; raises ObjectDamaged if it has not that size and SHA-256.

        `on_block` is called after each megabyte; what it raises ends the copying.
        """

        def write(block: bytes) -> None:
            file.write(block)
            on_block()

        with self.open_span(name, 0, size_bytes) as reader, path.open("wb") as file:
            _copied(reader, size_bytes, sha256, write)

    def open_span(self, name: str, start: int, end: int) -> "SpanReader":
        """Opens the bytes of an object from `start` up to, not including, `end`."""
        return SpanReader(self, name, start, end)

    def names(self, folder: str) -> Iterator[str]:
        """Give the names of the objects in the folder."""
        place = {"Bucket": self.bucket_name, "Prefix": f"{self.key(folder)}/"}
        with _translated(folder):
            for page in self.client.get_paginator("list_objects_v2").paginate(**place):
                yield from (
                    f"{folder}/{found['Key'].removeprefix(place['Prefix'])}" for found in page.get("Contents", ())
                )

    def delete_object(self, name: str) -> None:
        """Deletes an object; one that is not there is no error."""
        with _translated(name):
            self.client.delete_object(Bucket=self.bucket_name, Key=self.key(name))

    def delete_folder(self, name: str) -> None:
        """Delete every object in the folder, and the parts of uploads that were cut short there.

        Both are listed before anything is deleted: a server that refuses to list either keeps all.
        """
        place = {"Bucket": self.bucket_name, "Prefix": f"{self.key(name)}/"}
        with _translated(name):
            objects = self._listed("list_objects_v2", "Contents", place)
            uploads = self._listed("list_multipart_uploads", "Uploads", place)
            for found in objects:
                self.client.delete_object(Bucket=self.bucket_name, Key=found["Key"])
            for found in uploads:
                self._abort(found["Key"], found["UploadId"])

    def _listed(self, operation: str, what: str, place: dict[str, str]) -> list[dict[str, Any]]:
        pages = self.client.get_paginator(operation).paginate(**place)
        return [found for page in pages for found in page.get(what, ())]

    def _abort(self, key: str, upload_id: str) -> None:
        # One that has ended meanwhile is no concern of ours.
        with contextlib.suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.bucket_name, Key=key, UploadId=upload_id)


def _copied(reader: "SpanReader", size_bytes: int, sha256: str, write: Callable[[bytes], None]) -> None:
    digest = hashlib.sha256()
    while block := reader.read(_BLOCK_BYTES):
        digest.update(block)
        write(block)
    if reader.object_bytes != size_bytes or digest.hexdigest() != sha256:
        raise ObjectDamaged


class SpanReader:
    """The bytes of a span of an object, one after the other, as they come over one connection.

    A connection that breaks, as one does that a slow client leaves idle, is replaced where it broke; the bytes stay
    those of one and the same version. `object_bytes` is the length of the whole object.
    """

    def __init__(self, storage: RecordingsStorage, name: str, start: int, end: int) -> None:
        """Asks for the span; raises FileNotFoundError, ObjectDamaged if it is not all there, or StorageUnavailable."""
        self._storage = storage
        self._name = name
        self._position = start
        self._end = end
        self._etag = ""
        self.object_bytes = 0
        self._body = self._asked()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, or gives it back if all was read."""
        self._body.close()

    def _asked(self) -> Any:
        same_version = {"IfMatch": self._etag} if self._etag else {}
        with _translated(self._name):
            answer = self._storage.client.get_object(
                Bucket=self._storage.bucket_name,
                Key=self._storage.key(self._name),
                Range=f"bytes={self._position}-{self._end - 1}",
                **same_version,
            )
        self._etag = answer["ETag"]
        self.object_bytes = int(answer["ContentRange"].rpartition("/")[2])
        if self.object_bytes < self._end:
            answer["Body"].close()
            raise ObjectDamaged
        return answer["Body"]

    def read(self, size_bytes: int) -> bytes:
        """Returns the next bytes, at most `size_bytes`; none at the end. Raises StorageUnavailable."""
        wanted = min(size_bytes, self._end - self._position)
        for _ in range(_ATTEMPTS if wanted else 0):
            try:
                part: bytes = self._body.read(wanted)
            except BotoCoreError as error:
                logger.info("download_continued", name=self._name, error=str(error))
                part = b""
            if part:
                self._position += len(part)
                return part
            self._body.close()
            self._body = self._asked()
        if wanted:
            raise StorageUnavailable
        return b""
