"""What DATABASE_URL and REDIS_URL may say, and the sentence for what they may not."""

from pathlib import Path

import kombu
import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from sercuescribe import addresses

NAMES = ["c++", "a%41", "a;b,c", "a#1", "what?", "[x]*", "naïve 'quoted' \"name\" \\", " blank ", "a&b=c"]


@pytest.mark.parametrize("name", NAMES)
def test_any_path_is_the_socket_of_every_library(name):
    path = Path("/data") / name / "redis.sock"
    url = addresses.redis_socket_url(path)
    assert redis.ConnectionPool.from_url(url).connection_kwargs["path"] == str(path)
    connection = kombu.Connection(addresses.broker_url(url))
    assert connection.alt == []
    assert connection.as_uri() == f"redis+socket://{path}"


@pytest.mark.parametrize("name", NAMES)
def test_a_sqlite_url_names_a_file(name):
    path = Path("/data") / name
    written = str(path).replace("%", "%25").replace("?", "%3F")
    assert addresses.sqlite_file(f"sqlite:///{written}") == path


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://host/name", "must begin with postgresql:// or sqlite:///"),
        ("sqlite:///", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:////data/db?timeout=3", "SQLite has none"),
    ],
)
def test_a_url_of_no_file_is_rejected(url, sentence):
    with pytest.raises(ImproperlyConfigured, match=sentence):
        addresses.sqlite_file(url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://scribe@host/name?schema=public", '"schema"'),
        ("postgresql://scribe@host/name?pgbouncer=true", '"pgbouncer"'),
        ("postgresql://scribe:top/secret@host:5432/name", "as %2F"),
        ("postgresql://scribe:top@secret@host/name", "as %40"),
        ("postgresql://scribe:secret%zz@host/name", "as %25"),
        ("postgresql://scribe:secret@host:abc/name", "number from 1 to 65535"),
        ("postgresql://scribe:secret@host:70000/name", "number from 1 to 65535"),
        ("postgresql://scribe:secret@host", "names no database"),
    ],
)
def test_a_fault_of_a_postgresql_url_is_named_without_the_password(url, sentence):
    with pytest.raises(ImproperlyConfigured, match=sentence) as caught:
        addresses.postgresql(url)
    assert str(caught.value).startswith("DATABASE_URL") or "in DATABASE_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("password", ["p#w", "what?", "a%2Fb%3Ac%40d", "a;b,c", "+"])
def test_passwords_are_taken_as_libpq_takes_them(password):
    decoded = password.replace("%2F", "/").replace("%3A", ":").replace("%40", "@")
    config = addresses.postgresql(f"postgresql://scribe:{password}@[::1]:5433/name?ssl=true&application_name=x")
    assert (config["USER"], config["PASSWORD"], config["HOST"], config["PORT"]) == ("scribe", decoded, "::1", "5433")
    assert config["OPTIONS"] == {"sslmode": "require", "application_name": "x"}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://host", "must begin with redis://"),
        ("redis://:secret#word@host/0", "as %23"),
        ("redis://:secret/word@host:6379/0", "as %2F"),
        ("redis://:secret@host:abc/0", "host and port"),
        ("redis://[::1/0", "host and port"),
        ("redis://:secret@host/first", "number of a database"),
        ("redis://:secret@host/0?colour=red", "parameter"),
        ("redis://:secret@host/0?socket_timeout=long", "parameter"),
        ("rediss://:secret@host/0?ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs"),
        ("unix://", "names no socket"),
    ],
)
def test_a_fault_of_a_redis_url_is_named_without_the_password(url, sentence):
    with pytest.raises(ImproperlyConfigured, match=sentence) as caught:
        addresses.redis_url(url)
    assert "REDIS_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_separators_in_a_password_are_no_second_address():
    url = addresses.redis_url("redis://:a,b;c@host:6379/2")
    assert redis.ConnectionPool.from_url(url).connection_kwargs["password"] == "a,b;c"
    connection = kombu.Connection(addresses.broker_url(url))
    assert (connection.password, connection.virtual_host, connection.alt) == ("a,b;c", "2", [])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ("unix://:word@/run/redis.sock", "redis+socket://:word@/run/redis.sock"),
        ("rediss://host/0", "rediss://host/0?ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_cert_reqs=none", "rediss://host/0?ssl_cert_reqs=none"),
        ("redis://host/0", "redis://host/0"),
    ],
)
def test_the_broker_gets_the_same_address_in_its_own_words(url, expected):
    assert addresses.broker_url(url) == expected
