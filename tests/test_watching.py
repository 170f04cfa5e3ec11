"""The alert rules and the dashboard load: what Prometheus and Grafana demand of such files, and no more.

That the series exist which they name is shown with a real server, in tests/test_metrics.py.
"""

import re
from itertools import combinations

import promql_parser
import pytest
import yaml

from tests.services import REPOSITORY
from tests.watching import GRAFANA, PROMETHEUS, dashboard, expressions, rules, series

DURATION = re.compile(r"^\d+[smhdwy]$")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
RULE_KEYS = {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
UNITS = {"short", "s", "bytes", "Bps", "cps", "percentunit"}


def test_every_expression_is_promql():
    assert len(expressions()) > 30
    for expression in expressions():
        promql_parser.parse(expression)


def test_an_expression_that_is_none_is_seen():
    with pytest.raises(ValueError):
        series("rate(sercuescribe_chunks_total[5m)")


def test_the_rules_have_the_form_of_prometheus_rules():
    document = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    assert document.keys() == {"groups"}
    for group in document["groups"]:
        assert group.keys() <= {"name", "interval", "limit", "rules", "labels", "query_offset"}
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) >= 12
    for rule in rules():
        assert {"alert", "expr"} <= rule.keys() <= RULE_KEYS, rule
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", rule["alert"])
        assert DURATION.match(rule.get("for", "0s")), rule
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert all(isinstance(text, str) and text for text in rule["annotations"].values())


def test_every_runbook_is_a_heading_of_its_page():
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = HEADING.findall((REPOSITORY / page).read_text())
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, rule


def test_the_example_configuration_loads_the_rules():
    document = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert [(PROMETHEUS / name).exists() for name in document["rule_files"]] == [True]
    (job,) = document["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    assert compose["secrets"] == {"metrics_token": {"environment": "METRICS_TOKEN"}}
    assert compose["services"]["prometheus"]["secrets"] == ["metrics_token"]
    assert job["authorization"] == {"credentials_file": "/run/secrets/metrics_token"}
    assert f'job="{job["job_name"]}"' in rules()[0]["expr"]


def test_the_dashboard_has_the_form_of_a_grafana_dashboard():
    found = dashboard()
    assert found["title"] and found["uid"] and found["schemaVersion"] >= 36
    assert "__inputs" not in found  # those of an export that somebody has to answer by hand
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    for panel in panels:
        assert panel["type"] in ("row", "stat", "timeseries"), panel["title"]
        assert panel["title"] and panel["gridPos"].keys() == {"x", "y", "w", "h"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["targets"] and panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
            assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    variables = {variable["name"] for variable in found["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", (GRAFANA / "dashboard.json").read_text())) - {"__rate_interval"}
    assert used == variables


def test_no_panel_lies_on_another():
    for one, other in combinations([panel["gridPos"] for panel in dashboard()["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_the_provisioning_is_that_of_the_dashboard():
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/sercuescribe.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/")
