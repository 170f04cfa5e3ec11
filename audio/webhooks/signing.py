"""The secrets of endpoints, and the signed headers of a delivery (https://www.standardwebhooks.com)."""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime

from audio.deferred import DeferredModule

standardwebhooks = DeferredModule("standardwebhooks")

_SECRET_BYTES = 32


def new_secret() -> str:
    """Return a new random secret in the form that the libraries of Standard Webhooks expect."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def headers(message_id: str, body: str, at: datetime, keys: Sequence[str]) -> dict[str, str]:
    """Return the headers that sign a delivery.

    Args:
        message_id: The id of the event.
        body: The body of the request.
        at: The time of the attempt, in UTC. Receivers reject a delivery that is older than some minutes.
        keys: The secrets. Each makes a signature, so that a receiver may know any one of them.
    """
    signatures = [standardwebhooks.Webhook(key).sign(message_id, at, body) for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
