"""PURE. The parameters of a session and of a connection: their values, defaults and checks.

`parse_query` parses the query string of a WebSocket's URL (RFC 3986 section 3.4) and returns a `ConnectionRequest`, or
raises an error that names the valid values. `docs/protocol.md` lists the parameters.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category
from urllib.parse import parse_qsl

from audio.errors import InvalidParameterError, ParameterConflictError

SAMPLE_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
CHANNELS = (1, 2)
FORMATS = ("wav", "mp3", "flac", "aac", "webm", "ogg", "mp4")
ENCODINGS = ("s16le", "s24le", "s32le", "f32le", "mulaw", "alaw")
CHUNK_MODES = ("auto", "stream", "files")
LABEL_MAX_LENGTH = 255
METADATA_MAX_KEYS = 50
# The most bytes of all keys and values together, in UTF-8.
METADATA_MAX_BYTES = 8192
# The beginning of the name of a query parameter with metadata. The key follows it.
METADATA_PREFIX = "metadata."
RETENTION_MAX_DAYS = 36_500
# The parameters that the audio decides if the client does not name them.
DECIDED_BY_MEDIA = ("format", "sample_rate", "channels")
# The categories of Unicode that a label may not contain.
_NO_TEXT = frozenset(("Cc", "Cs", "Zl", "Zp"))

_CHOICES: dict[str, tuple[str | int, ...]] = {
    "sample_rate": SAMPLE_RATES_HZ,
    "channels": CHANNELS,
    "format": FORMATS,
    "encoding": ENCODINGS,
    "chunks": CHUNK_MODES,
}
_LABELS = ("user_id", "source", "ticket", "token", "project", "name")
_SECRETS = ("ticket", "token")
# Enough for all metadata and parameters, and for a few too many, which get a clearer error.
_QUERY_MAX_FIELDS = 128


@dataclass(frozen=True, slots=True)
class SessionParameters:
    """The parameters of a session's audio. `sample_rate` is in Hz, and `encoding` is that of raw PCM."""

    sample_rate: int
    channels: int
    format: str
    encoding: str = "s16le"
    chunks: str = "auto"

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters by their names."""
        # `asdict` makes deep copies, and costs as much as a statement of the database.
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Details:
    """The details of a session. They are independent of its audio, and can change at any time.

    Attributes:
        name: A title.
        metadata: Keys and values of the client's choice.
        retention_days: How many days after its end the session is kept; 0 for ever; None for the days of its project.
        legal_hold: Whether the session is under a legal hold, so that nobody may delete it.
    """

    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    retention_days: int | None = None
    legal_hold: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the details as the fields of a session."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ConnectionRequest:
    """The request of one connection. It contains only values that the query names, to compare them with the session.

    The name and the metadata are used only for a new session. A session that is resumed may have other ones.
    """

    named: Mapping[str, str | int]
    user_id: str | None = None
    source: str | None = None
    ticket: str | None = None
    token: str | None = None
    project: str | None = None
    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def parameters(self, defaults: SessionParameters) -> SessionParameters:
        """Return the parameters of a new session: those of the query, otherwise `defaults`."""
        return SessionParameters(**{**defaults.as_dict(), **self.named})

    @property
    def details(self) -> Details:
        """The details of a new session."""
        return Details(self.name, self.metadata)

    @property
    def undecided(self) -> list[str]:
        """The parameters of a new session that the audio decides, because the query does not name them."""
        return undecided_among(self.named)

    def check_continues(
        self, existing: SessionParameters, user_id: str | None, undecided: Collection[str] = ()
    ) -> dict[str, str | int]:
        """Compare the values of the query with the session that it continues.

        Args:
            existing: The parameters of the session.
            user_id: The label of the session.
            undecided: The names of the undecided parameters, of which any value is right.

        Returns:
            The undecided parameters that the query names, with their values.

        Raises:
            ParameterConflictError: The query names another value than that of the session.
        """
        decided = {name: value for name, value in self.named.items() if name in undecided}
        values = {**existing.as_dict(), **decided, "user_id": user_id}
        named = self.named if self.user_id is None else {**self.named, "user_id": self.user_id}
        for name, value in named.items():
            if values[name] != value:
                raise ParameterConflictError(
                    f"The session was opened with {name}={values[name]}, not {value}.",
                    parameter=name,
                    received=value,
                    valid_values=[values[name]],
                )
        return decided


def undecided_among(named: Collection[str]) -> list[str]:
    """Return the parameters of a new session that the audio decides, because its client does not name them."""
    return [name for name in DECIDED_BY_MEDIA if name not in named]


def parse_value(name: str, text: str) -> str | int:
    """Return the value of a parameter.

    Raises:
        InvalidParameterError: The parameter does not have this value; the error names the `valid_values`.
    """
    choices = _CHOICES[name]
    value: str | int = text.lower()
    if isinstance(choices[0], int):
        value = int(text) if text.isascii() and text.isdigit() else text
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise InvalidParameterError(
            f"{name} must be one of {listed}, not {text!r}.", parameter=name, received=text, valid_values=list(choices)
        )
    return value


def parse_label(name: str, text: str) -> str:
    """Return a label unchanged. Joiners and spaces of any script are allowed, because correct spelling may need them.

    Raises:
        InvalidParameterError: It is empty or too long, or has a control character, a line or paragraph separator, or
            half of a surrogate pair.
    """
    limit = LABEL_MAX_LENGTH if name not in _SECRETS else 1024
    if not 0 < len(text) <= limit or not _is_text(text):
        raise InvalidParameterError(
            f"{name} must have 1 to {limit} characters and no control characters.",
            parameter=name,
            **({} if name in _SECRETS else {"received": _shown(text)}),
            limit=limit,
        )
    return text


def _is_text(text: str) -> bool:
    return not any(category(character) in _NO_TEXT for character in text)


def _shown(text: str) -> str:
    return text[:64].encode(errors="replace").decode()


def parse_metadata(value: object) -> dict[str, str]:
    """Return the metadata of a session.

    Raises:
        InvalidParameterError: It is not a flat map of strings to strings, or is too large.
    """
    return check_metadata({key: text for key, text in _entries(value) if text is not None})


def merge_metadata(existing: Mapping[str, str], changes: object) -> dict[str, str]:
    """Return metadata with changes (RFC 7396): a string sets a key, None removes it, and None alone removes all keys.

    Raises:
        InvalidParameterError: The changes are wrong, or the result is too large.
    """
    if changes is None:
        return {}
    merged: dict[str, str | None] = {**existing, **dict(_entries(changes, is_change=True))}
    return check_metadata({key: text for key, text in merged.items() if text is not None})


def _entries(value: object, is_change: bool = False) -> list[tuple[str, str | None]]:
    if not isinstance(value, Mapping):
        raise InvalidParameterError(
            'metadata must be an object whose values are strings, such as {"room": "4"}.', parameter="metadata"
        )
    return [
        (_metadata_key(key), None if is_change and text is None else _metadata_value(key, text))
        for key, text in value.items()
    ]


def _metadata_key(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidParameterError("The keys of metadata must be strings.", parameter="metadata")
    try:
        return parse_label("metadata", key)
    except InvalidParameterError as error:
        sentence = f"A key of metadata must have 1 to {LABEL_MAX_LENGTH} characters and no control characters."
        raise InvalidParameterError(sentence, **error.details) from error


def _metadata_value(key: object, text: object) -> str:
    if not isinstance(text, str) or not _is_text(text):
        raise InvalidParameterError(
            f"{METADATA_PREFIX}{_shown(str(key))} must be a string without control characters.",
            parameter=f"{METADATA_PREFIX}{_shown(str(key))}",
            received=_shown(str(text)),
        )
    return text


def check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Return the metadata if it is not too large.

    Raises:
        InvalidParameterError: There are too many keys, or they are too long with their values.
    """
    if len(metadata) > METADATA_MAX_KEYS:
        raise InvalidParameterError(
            f"metadata may have at most {METADATA_MAX_KEYS} keys, not {len(metadata)}.",
            parameter="metadata",
            received=len(metadata),
            limit=METADATA_MAX_KEYS,
        )
    size_bytes = sum(len(key.encode()) + len(text.encode()) for key, text in metadata.items())
    if size_bytes > METADATA_MAX_BYTES:
        raise InvalidParameterError(
            f"The keys and values of metadata may have at most {METADATA_MAX_BYTES} bytes, not {size_bytes}.",
            parameter="metadata",
            received=size_bytes,
            limit=METADATA_MAX_BYTES,
        )
    return metadata


def parse_retention_days(value: object) -> int:
    """Return the number of days for which a session is kept.

    Raises:
        InvalidParameterError: It is not a whole number, is negative or is too large.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= RETENTION_MAX_DAYS:
        raise InvalidParameterError(
            f"retention_days must be a whole number from 0 (never delete) to {RETENTION_MAX_DAYS}, or null.",
            parameter="retention_days",
            received=_shown(str(value)),
            limit=RETENTION_MAX_DAYS,
        )
    return value


def parse_query(query: bytes) -> ConnectionRequest:
    """Parse the raw query string of a connection's URL.

    Raises:
        InvalidParameterError: A name is unknown or given twice, or a value is outside its range.
    """
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, max_num_fields=_QUERY_MAX_FIELDS, errors="strict"
        )
    except ValueError as error:
        raise InvalidParameterError(
            f"The query string must be percent-encoded UTF-8 with at most {_QUERY_MAX_FIELDS} fields.",
            parameter="query",
        ) from error
    named: dict[str, str | int] = {}
    labels: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for name, text in pairs:
        if name in named or name in labels or name.removeprefix(METADATA_PREFIX) in metadata:
            raise InvalidParameterError(f"{name} appears twice.", parameter=name)
        if name in _CHOICES:
            named[name] = parse_value(name, text)
        elif name in _LABELS:
            labels[name] = parse_label(name, text)
        elif name.startswith(METADATA_PREFIX):
            metadata[name.removeprefix(METADATA_PREFIX)] = text
        else:
            known = [*_CHOICES, *_LABELS, f"{METADATA_PREFIX}KEY"]
            raise InvalidParameterError(
                f"There is no parameter {name[:64]!r}.", parameter=name[:64], valid_values=known
            )
    return ConnectionRequest(named=named, metadata=parse_metadata(metadata), **labels)
