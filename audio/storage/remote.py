"""The remote storage of finished recordings, if the settings name one."""

from typing import TYPE_CHECKING, cast

import structlog
from django.conf import settings
from django.core.files.storage import storages

from audio.errors import StorageUnavailableError

if TYPE_CHECKING:
    from audio.storage.s3 import RecordingsStorage

logger = structlog.stdlib.get_logger(__name__)


def remote_storage() -> "RecordingsStorage":
    """Return the storage that RECORDINGS_STORAGE names.

    Raises:
        StorageUnavailableError: The setting is empty.
    """
    if not settings.RECORDINGS_STORAGE:
        logger.error("storage_unnamed")
        raise StorageUnavailableError
    return cast("RecordingsStorage", storages["recordings"])
