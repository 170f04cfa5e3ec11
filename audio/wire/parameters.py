"""PURE. The parameters of a session and of a connection: their values, defaults and checks.

The table in section 2 of the contract, as code: `parse_query` turns the query string of a WebSocket's URL (RFC 3986
section 3.4) into a `ConnectionRequest`, or raises an error that names the valid values.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from unicodedata import category
from urllib.parse import parse_qsl

from audio.errors import InvalidParameter, ParameterConflict

SAMPLE_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
CHANNELS = (1, 2)
FORMATS = ("wav", "mp3", "flac", "aac", "webm", "ogg", "mp4")
ENCODINGS = ("s16le", "s24le", "s32le", "f32le", "mulaw", "alaw")
CHUNK_MODES = ("auto", "stream", "files")
LABEL_MAX_LENGTH = 255
# What the media decide where the client does not name it.
DECIDED_BY_MEDIA = ("format", "sample_rate", "channels")
# Categories of Unicode.
_NO_TEXT = frozenset(("Cc", "Cs", "Zl", "Zp"))

_CHOICES: dict[str, tuple[str | int, ...]] = {
    "sample_rate": SAMPLE_RATES_HZ,
    "channels": CHANNELS,
    "format": FORMATS,
    "encoding": ENCODINGS,
    "chunks": CHUNK_MODES,
}
_LABELS = ("user_id", "source", "ticket", "token", "project")
_SECRETS = ("ticket", "token")


@dataclass(frozen=True, slots=True)
class SessionParameters:
    """What the audio of a session is. `sample_rate` is in Hz, `encoding` is that of headerless PCM."""

    sample_rate: int
    channels: int
    format: str
    encoding: str = "s16le"
    chunks: str = "auto"

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters as the keys and values of the contract."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ConnectionRequest:
    """What one connection asked for: only what its query named, so that a resumed session can be compared."""

    named: Mapping[str, str | int]
    user_id: str | None = None
    source: str | None = None
    ticket: str | None = None
    token: str | None = None
    project: str | None = None

    def parameters(self, defaults: SessionParameters) -> SessionParameters:
        """Return the parameters of a new session: what the query named, else `defaults`."""
        return SessionParameters(**{**defaults.as_dict(), **self.named})

    @property
    def undecided(self) -> list[str]:
        """The parameters of a new session that the media decide, because the query does not name them."""
        return undecided_among(self.named)

    def check_continues(
        self, existing: SessionParameters, user_id: str | None, undecided: Collection[str] = ()
    ) -> dict[str, str | int]:
        """Compare what the query names with the session that it continues.

        Args:
            existing: The parameters of the session.
            user_id: The label of the session.
            undecided: The names of parameters that the media have not decided yet: any value of them is right.

        Returns:
            The undecided ones that the query names, with their values.

        Raises:
            ParameterConflict: The query names a value that is not the session's.
        """
        decided = {name: value for name, value in self.named.items() if name in undecided}
        values = {**existing.as_dict(), **decided, "user_id": user_id}
        named = self.named if self.user_id is None else {**self.named, "user_id": self.user_id}
        for name, value in named.items():
            if values[name] != value:
                raise ParameterConflict(
                    f"The session was opened with {name}={values[name]}, not {value}.",
                    parameter=name,
                    received=value,
                    valid_values=[values[name]],
                )
        return decided


def undecided_among(named: Collection[str]) -> list[str]:
    """Return the parameters of a new session that the media decide, given those that its client names."""
    return [name for name in DECIDED_BY_MEDIA if name not in named]


def parse_value(name: str, text: str) -> str | int:
    """Return the value of a parameter.

    Raises:
        InvalidParameter: The parameter does not have this value; the error names the `valid_values`.
    """
    choices = _CHOICES[name]
    value: str | int = text.lower()
    if isinstance(choices[0], int):
        value = int(text) if text.isascii() and text.isdigit() else text
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise InvalidParameter(
            f"{name} must be one of {listed}, not {text!r}.", parameter=name, received=text, valid_values=list(choices)
        )
    return value


def parse_label(name: str, text: str) -> str:
    """Return a free label, as it is. Joiners and spaces of any script are part of correct spelling.

    Raises:
        InvalidParameter: It is empty or too long, or has a character that no text has: a control character, a line or
            paragraph separator, half of a surrogate pair.
    """
    limit = LABEL_MAX_LENGTH if name not in _SECRETS else 1024
    if not 0 < len(text) <= limit or any(category(character) in _NO_TEXT for character in text):
        raise InvalidParameter(
            f"{name} must have 1 to {limit} characters and no control characters.",
            parameter=name,
            **({} if name in _SECRETS else {"received": text[:64].encode(errors="replace").decode()}),
            limit=limit,
        )
    return text


def parse_query(query: bytes) -> ConnectionRequest:
    """Return what the raw query string of a connection's URL asks for.

    Raises:
        InvalidParameter: A name is unknown or given twice, or a value is outside its range.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=32, errors="strict")
    except ValueError as error:
        raise InvalidParameter(
            "The query string must be percent-encoded UTF-8 with at most 32 fields.", parameter="query"
        ) from error
    named: dict[str, str | int] = {}
    labels: dict[str, str] = {}
    for name, text in pairs:
        if name in named or name in labels:
            raise InvalidParameter(f"{name} appears twice.", parameter=name)
        if name in _CHOICES:
            named[name] = parse_value(name, text)
        elif name in _LABELS:
            labels[name] = parse_label(name, text)
        else:
            known = [*_CHOICES, *_LABELS]
            raise InvalidParameter(f"There is no parameter {name[:64]!r}.", parameter=name[:64], valid_values=known)
    return ConnectionRequest(named=named, **labels)
