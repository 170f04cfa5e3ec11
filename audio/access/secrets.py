"""Secrets of API keys and session tokens. A secret is shown once, and only its digest is stored.

A secret consists of `scribe_key_` or `scribe_token_`, a prefix of 12 characters by which it is found and named, and a
random number of 256 bits. Libraries for Django store such keys too, but put the digest into the primary key, which then
appears in URLs (djangorestframework-api-key), or bind each key to a person (django-rest-knox).
"""

import hashlib
import hmac
import re
import secrets
import string
from typing import NamedTuple

KEY, TOKEN = "scribe_key_", "scribe_token_"
PREFIX_LENGTH = 12
_ALPHABET = string.ascii_lowercase + string.digits
_SECRET = re.compile(rf"({KEY}|{TOKEN})([a-z0-9]{{{PREFIX_LENGTH}}})_[A-Za-z0-9_-]{{43}}", re.ASCII)


class NewSecret(NamedTuple):
    """A new secret, which is shown once, and the values that are stored."""

    text: str
    prefix: str
    digest: str


class Presented(NamedTuple):
    """A secret that somebody has presented."""

    kind: str
    prefix: str
    digest: str


def new(kind: str) -> NewSecret:
    """Return a new secret, KEY or TOKEN."""
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(PREFIX_LENGTH))
    text = f"{kind}{prefix}_{secrets.token_urlsafe(32)}"
    return NewSecret(text, prefix, digest(text))


def digest(text: str) -> str:
    """Return the SHA-256 of a secret, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse(text: str) -> Presented | None:
    """Parse a secret; return None if the text does not have the form of one."""
    found = _SECRET.fullmatch(text)
    return Presented(found[1], found[2], digest(text)) if found else None


def equal(left: str, right: str) -> bool:
    """Compare two digests in constant time."""
    return hmac.compare_digest(left, right)
