"""Recordings in S3: django-storages, extended to read a range of an object and to empty a folder.

Only this module uses the S3 library. It is imported only if RECORDINGS_STORAGE names a bucket, because boto3 needs time
to load, and memory. Any failure of S3 raises StorageUnavailableError. A missing object raises FileNotFoundError, as a
missing file does.
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

from audio.errors import ObjectDamagedError, StorageUnavailableError

logger = structlog.stdlib.get_logger(__name__)

_BLOCK_BYTES = 1 << 20
_MISSING = "NoSuchKey"
_TOO_SHORT = "InvalidRange"
# After this many attempts without progress the download of a span fails.
_ATTEMPTS = 3
_CLIENT = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=50,
    # Many compatible servers do not know the newer checksums. `verify` compares the SHA-256 of the whole object.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)
# Without threads parts are sent one after the other, so that memory does not grow with the recording.
_TRANSFER = TransferConfig(use_threads=False)


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Translate errors of the library into FileNotFoundError, ObjectDamagedError or StorageUnavailableError.

    The reason is logged.
    """
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == _MISSING:
            raise FileNotFoundError(f"{name} is not in the storage") from error
        if code == _TOO_SHORT:
            raise ObjectDamagedError from error
        logger.warning("storage_rejected", name=name, error=str(error))
        raise StorageUnavailableError from error
    except (BotoCoreError, Boto3Error) as error:
        logger.warning("storage_away", name=name, error=str(error))
        raise StorageUnavailableError from error


class RecordingsStorage(S3Storage):  # type: ignore[misc]  # django-storages is not typed
    """A bucket, or a folder in one, with one object for each recording.

    An object has the name of its file, relative to the storage root.
    """

    def get_default_settings(self) -> dict[str, Any]:
        """Return the library's defaults with limits on time and memory."""
        defaults: dict[str, Any] = super().get_default_settings()
        path_style = Config(s3={"addressing_style": "path"})
        return defaults | {
            # Self-hosted servers seldom have a host name for each bucket.
            "client_config": _CLIENT.merge(path_style) if defaults["endpoint_url"] else _CLIENT,
            "transfer_config": _TRANSFER,
        }

    @property
    def client(self) -> Any:
        """The client of the process. All threads may share it; a resource of boto3 belongs to a single thread."""
        return self.bucket.meta.client

    def key(self, name: str) -> str:
        """Return the key of the object with this name."""
        key: str = self._normalize_name(name)
        return key

    def reach(self) -> None:
        """Make the same requests as the start of a deletion, and close the connections.

        Raises:
            StorageUnavailableError: The server did not answer, or does not allow these requests with this key.
        """
        with _translated(self.bucket_name), contextlib.closing(self.client):
            self.client.list_objects_v2(Bucket=self.bucket_name, Prefix=self.key(""), MaxKeys=1)
            self.client.list_multipart_uploads(Bucket=self.bucket_name, Prefix=self.key(""), MaxUploads=1)

    def put(self, name: str, path: Path) -> None:
        """Upload a file as the object `name` and replace any older one. The upload is not verified."""
        with _translated(name), path.open("rb") as file:
            self.save(name, File(file))

    def verify(self, name: str, size_bytes: int, sha256: str) -> None:
        """Read the whole object and compare it with the size and the SHA-256.

        Raises:
            ObjectDamagedError: One of them differs.
        """
        with self.open_span(name, 0, size_bytes) as reader:
            _copied(reader, size_bytes, sha256, lambda _: None)

    def fetch(self, name: str, path: Path, size_bytes: int, sha256: str, on_block: Callable[[], None]) -> None:
        """Write the object to a file.

        Args:
            name: The name of the object.
            path: The file to write.
            size_bytes: The expected size.
            sha256: The expected SHA-256.
            on_block: Called after each megabyte. An error that it raises ends the copy.

        Raises:
            ObjectDamagedError: The size or the SHA-256 differs.
        """

        def write(block: bytes) -> None:
            file.write(block)
            on_block()

        with self.open_span(name, 0, size_bytes) as reader, path.open("wb") as file:
            _copied(reader, size_bytes, sha256, write)

    def open_span(self, name: str, start: int, end: int) -> "SpanReader":
        """Open the bytes of an object from `start` up to, and not including, `end`."""
        return SpanReader(self, name, start, end)

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the objects in the folder."""
        place = {"Bucket": self.bucket_name, "Prefix": f"{self.key(folder)}/"}
        with _translated(folder):
            for page in self.client.get_paginator("list_objects_v2").paginate(**place):
                yield from (
                    f"{folder}/{found['Key'].removeprefix(place['Prefix'])}" for found in page.get("Contents", ())
                )

    def delete_object(self, name: str) -> None:
        """Delete an object. A missing one is no error."""
        with _translated(name):
            self.client.delete_object(Bucket=self.bucket_name, Key=self.key(name))

    def delete_folder(self, name: str) -> None:
        """Delete every object in the folder, and the parts of unfinished uploads to it.

        Both are listed before anything is deleted. If the server rejects one of the lists, nothing is deleted.
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
        # The upload may have ended since it was listed.
        with contextlib.suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.bucket_name, Key=key, UploadId=upload_id)


def _copied(reader: "SpanReader", size_bytes: int, sha256: str, write: Callable[[bytes], None]) -> None:
    digest = hashlib.sha256()
    while block := reader.read(_BLOCK_BYTES):
        digest.update(block)
        write(block)
    if reader.object_bytes != size_bytes or digest.hexdigest() != sha256:
        raise ObjectDamagedError


class SpanReader:
    """A reader of a range of an object, over one connection.

    If the connection breaks, for example because a slow client leaves it idle, another one continues at the same place.
    All bytes belong to the same version of the object. `object_bytes` is the length of the whole object.
    """

    def __init__(self, storage: RecordingsStorage, name: str, start: int, end: int) -> None:
        """Request the range.

        Raises:
            FileNotFoundError: There is no such object.
            ObjectDamagedError: The object is shorter than `end`.
            StorageUnavailableError: The storage does not answer.
        """
        self._storage = storage
        self._name = name
        self._position = start
        self._end = end
        self._etag = ""
        self.object_bytes = 0
        self._body = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, or return it to the pool if the body was read to its end."""
        self._body.close()

    def _open(self) -> Any:
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
            raise ObjectDamagedError
        return answer["Body"]

    def read(self, size_bytes: int) -> bytes:
        """Return the next bytes, at most `size_bytes` of them; an empty result is the end of the range.

        Raises:
            StorageUnavailableError: The storage does not answer.
        """
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
            self._body = self._open()
        if wanted:
            raise StorageUnavailableError
        return b""
