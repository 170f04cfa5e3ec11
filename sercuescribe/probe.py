"""The health check `python -m sercuescribe.probe`: it requests /health of the web server on HOST and PORT."""

import ipaddress
import sys
from urllib.error import URLError
from urllib.request import urlopen

from sercuescribe import settings

ANSWER_SECONDS = 4.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with HOST, not bound


def url() -> str:
    """Return the URL of the health check. If the server listens on all addresses, it uses the loopback address."""
    host = _LOOPBACK.get(settings.HOST, settings.HOST)
    return f"http://{_bracketed(host)}:{settings.PORT}/health"


def _bracketed(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def main() -> None:
    """Exit with status 0 if the server answers, and otherwise with status 1 and the reason."""
    try:
        with urlopen(url(), timeout=ANSWER_SECONDS):  # noqa: S310 - our own address
            return
    except (URLError, OSError) as error:
        sys.exit(f"{url()} does not answer: {error}")


if __name__ == "__main__":
    main()
