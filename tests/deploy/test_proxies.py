"""What clients, browsers and operators get through each proxy that we have a file for."""

import asyncio
import re
import subprocess
import sys
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from tests.client import recorder
from tests.deploy.proxies import BELOW_A_PATH, KINDS, Proxy, running
from tests.server import Server, eventually, free_port
from tests.services import REPOSITORY

PASSWORD = "a-long-password"
METRICS_TOKEN = "a-token-for-prometheus"


@pytest.fixture(params=KINDS)
def proxy(request, run_server, tmp_path):
    """A proxy and the server behind it."""
    port = free_port()
    public = {"PUBLIC_URL": f"https://localhost:{port}/scribe"} if request.param in BELOW_A_PATH else {}
    reachable = {"ALLOWED_HOSTS": "localhost", "REQUIRE_AUTH": "true", "METRICS_TOKEN": METRICS_TOKEN} | public
    server = run_server(PORT=str(free_port()), **reachable)
    with running(request.param, tmp_path, port, urlsplit(server.url).port or 0) as proxy:
        yield proxy, server


def test_everything_is_where_clients_see_it(proxy):
    through, server = proxy
    with httpx.Client(base_url=through.url, verify=through.trust) as http:
        assert http.get("/api/audio/sessions").status_code == 401
        key = server.manage("apikey", "create", "app", "--scope", "record", "--scope", "read").strip()
        http.headers["Authorization"] = f"Bearer {key}"
        a_session_is_recorded(http, through)
        pages_lead_nowhere_else(http, through)
        an_operator_logs_in(http, server)
        some_things_stay_outside(http)
    who_carries_no_name_is_answered_at_the_server(server)


async def record(through: Proxy, created: dict[str, str], chunk: bytes, token: str) -> None:
    assert created["websocket_url"].startswith(f"{through.url.replace('https', 'wss')}/api/ws/audio/")
    async with recorder(
        through.url.replace("https", "wss"), created["session_id"], ssl=through.trust, token=token
    ) as client:
        await client.store(chunk)
        await client.close_session()


def a_session_is_recorded(http: httpx.Client, through: Proxy) -> None:
    created = http.post("/api/audio/sessions", json={}).json()
    chunk = b"\1\2" * 700_000  # more than the proxy lets an HTTP request be
    path = f"/api/audio/sessions/{created['session_id']}"
    token = http.post(f"{path}/tokens", json={}).json()["token"]
    asyncio.run(record(through, created, chunk, token))
    session = eventually(lambda: (shown := http.get(path).json())["recording"]["state"] == "ready" and shown)
    assert session["recording"]["url"] == f"{through.url}{path}/audio"
    assert http.get(session["recording"]["url"]).content.endswith(chunk)
    http.post("/api/audio/sessions", json={})
    assert http.get("/api/audio/sessions?page_size=1").json()["next"].startswith(f"{through.url}/api/audio/sessions?")


def pages_lead_nowhere_else(http: httpx.Client, through: Proxy) -> None:
    for page in ("/", "/docs", "/redoc", "/api/asyncapi", "/login", "/api/audio/sessions"):
        shown = http.get(page, headers={"Accept": "text/html"}, follow_redirects=True)
        assert shown.status_code == 200
        for link in re.findall(r'(?:href|src)="([^"#]+)"', shown.text):
            target = urljoin(str(shown.url), link.replace("&amp;", "&"))
            if target.startswith("http") and not link.startswith("http://www."):
                assert target.startswith(f"{through.url}/"), (page, link)
                wanted = (200, 302, 404) if target.endswith("/metrics") else (200, 302)
                assert http.get(target).status_code in wanted, (page, link)
    schema = http.get("/api/schema", headers={"Accept": "application/json"}).json()
    prefix = urlsplit(through.url).path
    assert [each["url"] for each in schema.get("servers", [{"url": ""}])] == [prefix]
    here = http.get("/api/asyncapi.json").json()["servers"]["here"]
    assert f"https://{here['host']}{here.get('pathname', '')}" == through.url


def an_operator_logs_in(http: httpx.Client, server: Server) -> None:
    command = [sys.executable, "manage.py", "createsuperuser", "--no-input", "--username", "op", "--email", "o@e.org"]
    environment = server.environment | {"DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    page = http.get("/admin/", follow_redirects=True)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    fields = {"username": "op", "password": PASSWORD, "csrfmiddlewaretoken": token and token[1]}
    origin = "https://" + urlsplit(str(page.url)).netloc
    entered = http.post(page.url, data=fields, headers={"Origin": origin, "Referer": str(page.url)})
    assert (entered.status_code, http.get("/admin/").status_code) == (302, 200)
    cookies = entered.headers.get_list("set-cookie")
    path = urlsplit(str(http.base_url)).path.rstrip("/") or "/"
    assert len(cookies) == 2
    assert all("; Secure" in cookie and f"; Path={path}" in cookie for cookie in cookies)


def some_things_stay_outside(http: httpx.Client) -> None:
    assert [http.get(path).status_code for path in ("/metrics", "/metrics/", "/health")] == [404, 404, 200]
    assert http.post("/api/tasks", content=bytes((1 << 20) + 1)).status_code == 413


def who_carries_no_name_is_answered_at_the_server(server: Server) -> None:
    for path in ("/metrics", "/health", "/health/ready", "/health/"):
        headers = {"Host": "172.18.0.6:8000", "Authorization": f"Bearer {METRICS_TOKEN}"}
        assert httpx.get(server.url + path, headers=headers).status_code == 200
    assert httpx.get(f"{server.url}/api/audio/sessions", headers={"Host": "172.18.0.6:8000"}).status_code == 400


@pytest.mark.parametrize("told", ["https", "https, http", "https,https"])
def test_the_first_of_several_proxies_knows_whether_clients_use_tls(server, told):
    """A server behind two proxies, of which the second one appends what it has seen."""
    created = httpx.post(f"{server.url}/api/audio/sessions", json={}, headers={"X-Forwarded-Proto": told}).json()
    assert created["websocket_url"].startswith("wss://")


def test_a_host_that_is_rejected_is_logged_once_and_counted(run_server):
    server = run_server(ALLOWED_HOSTS="scribe.example.org", METRICS_TOKEN=METRICS_TOKEN)
    hosts = ["evil.example", "web_1:8000"]
    for host in [*hosts, *hosts]:
        answer = httpx.get(f"{server.url}/api/audio/sessions", headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert "host" in answer.json()["detail"]
    log = server.read_log()
    assert [log.count(host) for host in hosts] == [log.count("request_rejected") / 2] * 2 == [1, 1]
    advice = {line.partition("advice=")[2] for line in log.splitlines() if "request_rejected" in line}
    assert any("ALLOWED_HOSTS" in each for each in advice) and any("letters, digits" in each for each in advice)
    metrics = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})
    assert 'sercuescribe_requests_rejected_total{reason="host"} 4.0' in metrics.text
