"""One request to an endpoint.

The host is resolved once. Each address is checked (`audio.webhooks.networks`), and the request goes to a checked
address, so that a name can't resolve to another address afterwards. `Host` and the TLS server name are those of the
URL. Redirects are not followed, and proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audio.deferred import DeferredModule
from audio.webhooks.networks import Address, Networks, is_allowed, is_named, parsed

if TYPE_CHECKING:
    import certifi
    import httpx
else:
    certifi = DeferredModule("certifi")
    httpx = DeferredModule("httpx")

TIMEOUT_SECONDS = 15.0
ANSWER_BYTES = 1000
_PORTS = {"http": 80, "https": 443}


class ForbiddenAddressError(Exception):
    """The host of the URL has an address to which webhooks may not be sent."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message to an endpoint."""

    url: str
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of an endpoint: the status and the beginning of the body, or the reason why there was none."""

    duration_ms: int
    status_code: int | None = None
    text: str = ""
    error: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the endpoint has accepted the event."""
        return self.status_code is not None and 200 <= self.status_code < 300


def post_all(messages: Sequence[Message], allowed: Networks) -> list[Answer]:
    """Send messages at the same time, and return the answers in the same order.

    It takes little more than TIMEOUT_SECONDS, however many endpoints hang.
    """
    return asyncio.run(_post_all(messages, allowed))


async def _post_all(messages: Sequence[Message], allowed: Networks) -> list[Answer]:
    # A connection is used only once, because a request to another host with the same address must not use it.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(verify=_tls(), trust_env=False, timeout=None, limits=limits) as client:
        return await asyncio.gather(*(_post(client, message, allowed) for message in messages))


def _tls() -> ssl.SSLContext:
    """Trust the authorities of the system (or SSL_CERT_FILE) and those of certifi: a small image has only these."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


async def _post(client: httpx.AsyncClient, message: Message, allowed: Networks) -> Answer:
    began = time.monotonic()
    status, text, error = None, "", ""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            status, text = await _exchange(client, message, allowed)
    except TimeoutError:
        error = f"The endpoint did not answer within {TIMEOUT_SECONDS:.0f} seconds."
    except ForbiddenAddressError as forbidden:
        error = str(forbidden)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    if status is not None and 300 <= status < 400:
        error = "The endpoint redirects. Redirects are not followed: change the URL of the webhook."
    return Answer(round(1000 * (time.monotonic() - began)), status, text, error)


async def _exchange(client: httpx.AsyncClient, message: Message, allowed: Networks) -> tuple[int, str]:
    url = httpx.URL(message.url)
    addresses = await _addresses(url, allowed)
    for address in addresses[:-1]:
        try:
            return await _send(client, message, url, address)
        except httpx.ConnectError:
            continue
    return await _send(client, message, url, addresses[-1])


async def _addresses(url: httpx.URL, allowed: Networks) -> list[Address]:
    """Return the addresses of a URL's host to which the request may go.

    Raises:
        ForbiddenAddressError: There is none.
    """
    port = url.port or _PORTS[url.scheme]
    found = await asyncio.get_running_loop().getaddrinfo(url.raw_host.decode(), port, proto=6)
    addresses = list(dict.fromkeys(address for *_, place in found if (address := parsed(str(place[0])))))
    permitted = is_named if url.scheme == "http" else is_allowed
    addresses = [address for address in addresses if permitted(address, allowed)]
    if not addresses:
        kind = "not encrypted, and not inside of" if url.scheme == "http" else "neither public nor inside of"
        raise ForbiddenAddressError(f"The address of the host is {kind} a network in WEBHOOK_ALLOWED_NETWORKS.")
    return addresses


async def _send(client: httpx.AsyncClient, message: Message, url: httpx.URL, address: Address) -> tuple[int, str]:
    headers = {**message.headers, "Host": url.netloc.decode(), "Accept-Encoding": "identity"}
    target = url.copy_with(host=str(address), username=None, password=None)
    extensions = {"sni_hostname": url.raw_host.decode()}
    body = message.body.encode()
    async with client.stream("POST", target, content=body, headers=headers, extensions=extensions) as response:
        text = b""
        async for part in response.aiter_raw():
            text += part
            if len(text) >= ANSWER_BYTES:
                break
        return response.status_code, text[:ANSWER_BYTES].decode(errors="replace").replace("\0", "\ufffd")
