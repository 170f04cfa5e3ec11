"""The address of the server, and the secret that this client sends to it."""

import os
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlencode, urlsplit

from sercuescribe_client.errors import UsageError

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "SERCUESCRIBE_URL"
KEY_VARIABLE = "SERCUESCRIBE_API_KEY"


@dataclass(frozen=True, slots=True)
class Server:
    """The address of the server, with an API key or session token if it has one."""

    url: str
    secret: str | None = field(default=None, repr=False)

    @classmethod
    def find(cls, url: str | None = None, api_key: str | None = None) -> Self:
        """Return the server. Missing values are read from the environment.

        Raises:
            UsageError: The address is not that of a server.
        """
        address = (url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise UsageError(f"The address of the server must look like {DEFAULT_URL}, not {address!r}.")
        secret = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        return cls(address, secret or None)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that authenticate the client."""
        return {"Authorization": f"Bearer {self.secret}"} if self.secret else {}

    def websocket_url(self, session_id: str | None, parameters: dict[str, str]) -> str:
        """Return the address of the WebSocket, of a session if there is one already."""
        path = "/api/ws/audio" + (f"/{session_id}" if session_id else "")
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"ws{self.url.removeprefix('http')}{path}{query}"
