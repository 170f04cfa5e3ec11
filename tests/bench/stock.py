"""A reference: a stock Channels consumer that stores each message as a row, as tutorials show it."""

import os
from pathlib import Path
from typing import Any

import django
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path(os.environ["STOCK_FOLDER"]) / "stock.sqlite3",
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
            },
        }
    },
    INSTALLED_APPS=["channels"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.db import connection, models  # noqa: E402 - models need the settings


class Message(models.Model):
    """A message as it came."""

    payload = models.BinaryField()

    objects: models.Manager["Message"] = models.Manager()

    class Meta:
        app_label = "stock"

    def __str__(self) -> str:
        return str(self.pk)


with connection.schema_editor() as editor:
    if Message._meta.db_table not in connection.introspection.table_names():
        editor.create_model(Message)


class Consumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # Channels is not typed
    """Acknowledge each message once its row is committed."""

    async def connect(self) -> None:
        """Accept and greet."""
        self.count = 0
        await self.accept()
        await self.send_json({"message": "Audio session created"})

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **_: Any) -> None:
        """Store a message."""
        await database_sync_to_async(Message.objects.create)(payload=bytes_data)
        self.count += 1
        await self.send_json({"message": "Chunk processed successfully", "chunk_count": self.count, "status": "active"})


application = Consumer.as_asgi()
