"""`/metrics` as a view; what real servers say there is in tests/test_metrics.py."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/plain;version=0.0.4;q=0.3"])
def test_the_text_format_is_the_default(client, path, accept):
    answer = client.get(path, headers={"accept": accept})
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=0.0.4")
    names = {family.name for family in text_string_to_metric_families(answer.content.decode())}
    assert {"sercuescribe_sessions", "sercuescribe_chunks", "sercuescribe_journal_bytes"} <= names


def test_open_metrics_are_given_to_those_who_ask(client):
    accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    answer = client.get("/metrics", headers={"accept": accept})
    assert answer["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "sercuescribe_sessions" in {family.name for family in open_metrics(answer.content.decode())}


def test_redis_is_not_asked(client, settings):
    nowhere = "redis://127.0.0.1:1/0"
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": nowhere}}
    settings.CHANNEL_LAYERS = {"default": {**settings.CHANNEL_LAYERS["default"], "CONFIG": {"hosts": [nowhere]}}}
    assert client.get("/metrics").status_code == 200


def test_nothing_but_reading(client):
    assert client.post("/metrics").status_code == 405
