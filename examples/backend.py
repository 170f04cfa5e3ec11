"""The back end of a web application that records: it keeps the API key, and gives browsers tokens.

    SERCUESCRIBE_API_KEY=... python backend.py [PORT]

It serves the page on http://127.0.0.1:8080. SERCUESCRIBE_URL is the URL of SercueScribe, as browsers see it. The key
needs the scopes `record` and `read`:

    python manage.py apikey create my-app --scope record --scope read

A real application lets its users log in first, and remembers whose sessions are whose.
"""

import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SERVER = os.environ.get("SERCUESCRIBE_URL", "http://127.0.0.1:8000")
KEY = os.environ["SERCUESCRIBE_API_KEY"]
PAGE = Path(__file__).parent / "page.html"


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request with the API key, and return the JSON of the response."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urlopen(Request(f"{SERVER}/api/audio/sessions{path}", data, headers, method=method)) as response:
        return json.load(response)


def new_recording() -> dict[str, Any]:
    """Create a session, and a token with which a browser can record to this session and nothing else."""
    session_id = call("POST", "", {})["session_id"]
    token = call("POST", f"/{session_id}/tokens", {"purpose": "record"})["token"]
    return {"server": SERVER, "session_id": session_id, "token": token}


def recording(session_id: str) -> dict[str, Any]:
    """Return the session. When its recording is ready, its URL contains a token to listen for an hour."""
    session: dict[str, Any] = call("GET", f"/{session_id}")
    if session["recording"]["state"] == "ready":
        token = call("POST", f"/{session_id}/tokens", {"purpose": "listen"})["token"]
        session["recording"]["url"] += f"?token={token}"
    return session


class Handler(BaseHTTPRequestHandler):
    """Answers the browser."""

    def do_GET(self) -> None:
        """Send the page, or what is known of a recording."""
        found = re.fullmatch(r"/recordings/([0-9a-f-]{36})", self.path)
        if found:
            self.answer(lambda: recording(found[1]))
        elif self.path == "/":
            self.send(200, "text/html", PAGE.read_bytes())
        else:
            self.send(404, "text/plain", b"Not found")

    def do_POST(self) -> None:
        """Start a recording."""
        if self.path == "/recordings":
            self.answer(new_recording)
        else:
            self.send(404, "text/plain", b"Not found")

    def answer(self, ask: Any) -> None:
        """Send JSON, or the error of SercueScribe."""
        try:
            self.send(200, "application/json", json.dumps(ask()).encode())
        except HTTPError as error:
            self.send(error.code, "application/json", error.read())

    def send(self, status: int, content_type: str, body: bytes) -> None:
        """Send a response."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)


port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
with ThreadingHTTPServer(("127.0.0.1", port), Handler) as httpd:
    print(f"http://127.0.0.1:{httpd.server_port}", flush=True)
    httpd.serve_forever()
