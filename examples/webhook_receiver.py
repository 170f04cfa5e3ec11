"""Receives the events of SercueScribe's webhooks, verifies their signatures, and prints them.

    python webhook_receiver.py whsec_... [port]

It needs the library `standardwebhooks`, which exists for most languages. A real receiver stores the event, answers, and
works on it afterwards: an answer that takes longer than 15 seconds counts as a failure.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

# The ids of the events that were handled. An event may come more than once, always with the same id. A real receiver
# keeps them in its database.
seen: set[str] = set()


class Receiver(BaseHTTPRequestHandler):
    """Answers the requests of the server."""

    def do_POST(self) -> None:
        """Verify an event, and print it if it is new."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            event = Webhook(sys.argv[1]).verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            self.send_error(400, str(error))
            return
        if self.headers["webhook-id"] not in seen:
            seen.add(self.headers["webhook-id"])
            print(event["type"], json.dumps(event["data"]), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing about requests."""


port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
with ThreadingHTTPServer(("127.0.0.1", port), Receiver) as server:
    server.serve_forever()
