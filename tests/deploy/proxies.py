"""Runs the proxies of `deploy/` and `docker/` before a server, each on a port of this machine and with TLS."""

import contextlib
import datetime
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.debian import program
from tests.server import eventually, free_port
from tests.services import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
NGINX = """
daemon off;
error_log stderr;
pid {folder}/nginx.pid;
events {{ }}
http {{
    access_log off;
    {temporary}
    include {folder}/site.conf;
}}
"""


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs: the address that clients use, and what lets them trust its certificate."""

    url: str
    trust: ssl.SSLContext


def make_certificate(folder: Path) -> ssl.SSLContext:
    """Write a certificate for `localhost` as cert.pem, key.pem and both.pem; return a context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    ).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, content in (("cert.pem", certificate), ("key.pem", private), ("both.pem", certificate + private)):
        (folder / file).write_bytes(content)
    return ssl.create_default_context(cafile=str(folder / "cert.pem"))


def nginx(file: str, folder: Path, port: int, upstream_port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of an nginx with a file of `deploy/nginx`."""
    text = (DEPLOY / "nginx" / file).read_text()
    text = re.sub(r"listen (\[::\]:)?80;", f"listen 127.0.0.1:{free_port()};", text, count=1)
    text = re.sub(r"\n *listen \[::\]:.*;", "", text)
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl").replace(
        "127.0.0.1:8000", f"127.0.0.1:{upstream_port}"
    )
    text = re.sub(r"/etc/ssl/certs/.*\.pem", str(folder / "cert.pem"), text)
    text = re.sub(r"/etc/ssl/private/.*\.key", str(folder / "key.pem"), text)
    (folder / "site.conf").write_text(re.sub(r"(scribe\.)?example\.org", "localhost", text))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, temporary=temporary))
    found = program("nginx")
    return [str(found.path), "-c", str(folder / "nginx.conf"), "-p", str(folder)], found.environment


def haproxy(folder: Path, port: int, upstream_port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a HAProxy with `deploy/haproxy.cfg`."""
    text = (DEPLOY / "haproxy.cfg").read_text()
    for there, here in {
        "bind :80": f"bind 127.0.0.1:{free_port()}",
        "bind :443": f"bind 127.0.0.1:{port}",
        "/etc/haproxy/scribe.example.org.pem": str(folder / "both.pem"),
        "127.0.0.1:8000": f"127.0.0.1:{upstream_port}",
    }.items():
        assert there in text
        text = text.replace(there, here)
    (folder / "haproxy.cfg").write_text(text)
    found = program("haproxy")
    return [str(found.path), "-db", "-f", str(folder / "haproxy.cfg")], found.environment


def caddy(file: Path, folder: Path, port: int, upstream_port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a Caddy with a file of ours, and a certificate that is made here."""
    text = file.read_text().replace(
        "{$SITE_ADDRESS} {", f"{{$SITE_ADDRESS}} {{\n\ttls {folder}/cert.pem {folder}/key.pem"
    )
    if "admin off" not in text:
        text = f"{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{text}"
    else:
        text = text.replace("admin off", "admin off\n\tauto_https disable_redirects")
    (folder / "Caddyfile").write_text(text)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "SITE_ADDRESS": f"https://localhost:{port}",
        "UPSTREAM": f"127.0.0.1:{upstream_port}",
    }
    command = [str(Path(sys.executable).parent / "caddy"), "run", "--config", str(folder / "Caddyfile")]
    return [*command, "--adapter", "caddyfile"], environment


@contextlib.contextmanager
def running(name: str, folder: Path, port: int, upstream_port: int) -> Iterator[Proxy]:
    """Run one of KINDS on a port, before the server on another, until the end of the block."""
    trust = make_certificate(folder)
    command, environment = KINDS[name](folder, port, upstream_port)
    url = f"https://localhost:{port}{'/scribe' if name in BELOW_A_PATH else ''}"
    with (folder / "proxy.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        eventually(lambda: process.poll() is not None or listens(url, trust))
        assert process.poll() is None, (folder / "proxy.log").read_text()
        yield Proxy(url, trust)
    finally:
        process.terminate()
        process.wait()
        sys.stdout.write((folder / "proxy.log").read_text())


def listens(url: str, trust: ssl.SSLContext) -> bool:
    """Whether the proxy answers, also when the server behind it does not."""
    with contextlib.suppress(httpx.TransportError):
        httpx.get(url, verify=trust)
        return True
    return False


KINDS = {
    "nginx": lambda *place: nginx("sercuescribe.conf", *place),
    "nginx below a path": lambda *place: nginx("sercuescribe-below-a-path.conf", *place),
    "haproxy": haproxy,
    "caddy": lambda *place: caddy(REPOSITORY / "docker" / "Caddyfile", *place),
    "caddy below a path": lambda *place: caddy(DEPLOY / "Caddyfile-below-a-path", *place),
}
BELOW_A_PATH = {name for name in KINDS if name.endswith("below a path")}
