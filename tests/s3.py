"""A real server that speaks S3, moto's, in a process of its own, and a proxy before it that damages what passes.

In a test, ask for the fixture `bucket`: an empty bucket that the product's settings name; or, for a server in
processes of its own, for `empty_bucket` and give it the bucket's `environment`.
"""

import contextlib
import http.client
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from botocore.config import Config

from tests.server import TIED

ADDRESS = re.compile(rb"Running on http://127\.0\.0\.1:(\d+)")
KEY = {"aws_access_key_id": "somebody", "aws_secret_access_key": "something", "region_name": "us-east-1"}
# Of one hop each: a proxy passes them on for itself.
HOP_HEADERS = ("connection", "transfer-encoding", "expect", "date", "server")

Change = Callable[[str, str, bytes], bytes]


def unchanged(method: str, path: str, body: bytes) -> bytes:
    return body


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """Runs the server; gives its port."""
    module = ["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", TIED, str(os.getpid()), *module],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        said = b""
        while not (found := ADDRESS.search(said)):
            line = process.stderr.readline()
            assert line, f"the S3 server did not start: {said.decode()}"
            said += line
        # It logs each request: what nobody reads would fill the pipe.
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        yield int(found[1])
        process.kill()
        reader.join()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextlib.contextmanager
def s3_client(port: int) -> Iterator[Any]:
    """A client of the server itself; making one takes half a second."""
    path_style = Config(s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", config=path_style, **KEY)
    with contextlib.closing(client):
        yield client


NOT_IMPLEMENTED = (
    b"<?xml version='1.0'?><Error><Code>NotImplemented</Code><Message>There is no such thing here.</Message></Error>"
)


class Proxy:
    """An S3 endpoint that passes everything on to the server, through `on_request` and `on_answer`.

    `cut_after` bytes of an answer the connection breaks, once. While it `is_away` nobody is let in.
    """

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.on_request: Change = unchanged
        self.on_answer: Change = unchanged
        self.cut_after: int | None = None
        self.is_away = False
        self.rejects: Callable[[str, str], bool] = lambda command, path: False
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.pass_on(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *arguments: Any) -> None:
                """Says nothing."""

        return Handler

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.requests.append((request.command, request.path))
        if self.is_away:
            request.close_connection = True
            return
        if self.rejects(request.command, request.path):
            request.send_response(501)
            request.send_header("Content-Length", str(len(NOT_IMPLEMENTED)))
            request.end_headers()
            request.wfile.write(NOT_IMPLEMENTED)
            return
        body = self.on_request(request.command, request.path, body)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_HEADERS}
        headers["Content-Length"] = str(len(body))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server_port)) as server:
            server.request(request.command, request.path, body, headers)
            answer = server.getresponse()
            content = self.on_answer(request.command, request.path, answer.read())
        self._answer(request, answer, content)

    def _answer(self, request: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, content: bytes) -> None:
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in (*HOP_HEADERS, "content-length"):
                request.send_header(name, value)
        length = answer.getheader("Content-Length") if request.command == "HEAD" else str(len(content))
        request.send_header("Content-Length", length or "0")
        request.end_headers()
        cut, self.cut_after = self.cut_after if len(content) > (self.cut_after or 0) else None, None
        if cut is not None:
            content, request.close_connection = content[:cut], True
        request.wfile.write(content)


class Bucket:
    """An empty bucket of its own, and what is in it."""

    FOLDER = "kept/here"

    def __init__(self, port: int, client: Any) -> None:
        self.name = f"recordings-{uuid.uuid4().hex}"
        self.proxy = Proxy(port)
        self.client = client
        client.create_bucket(Bucket=self.name)

    @property
    def url(self) -> str:
        return f"s3://{self.name}/{self.FOLDER}"

    @property
    def environment(self) -> dict[str, str]:
        """What a server needs to use it."""
        return {
            "RECORDINGS_STORAGE": self.url,
            "AWS_ENDPOINT_URL_S3": self.proxy.url,
            "AWS_ACCESS_KEY_ID": KEY["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEY["aws_secret_access_key"],
            "AWS_DEFAULT_REGION": KEY["region_name"],
        }

    @property
    def storage(self) -> dict[str, Any]:
        """The same for Django's STORAGES."""
        options = {
            "bucket_name": self.name,
            "location": self.FOLDER,
            "endpoint_url": self.proxy.url,
            "access_key": KEY["aws_access_key_id"],
            "secret_key": KEY["aws_secret_access_key"],
            "region_name": KEY["region_name"],
        }
        return {"BACKEND": "audio.storage.s3.RecordingsStorage", "OPTIONS": options}

    def objects(self) -> dict[str, bytes]:
        """What is in it, by name below the folder."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {each["Key"].removeprefix(f"{self.FOLDER}/"): self.read(each["Key"]) for each in found}

    def read(self, key: str) -> bytes:
        with contextlib.closing(self.client.get_object(Bucket=self.name, Key=key)["Body"]) as body:
            return body.read()

    def unfinished_uploads(self) -> list[str]:
        found = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return [each["Key"] for each in found]
