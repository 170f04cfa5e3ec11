"""Reads docker/prometheus and docker/grafana: the rules, the dashboard, and the series that their expressions name."""

import json
from typing import Any

import promql_parser
import yaml

from tests.services import REPOSITORY

PROMETHEUS = REPOSITORY / "docker" / "prometheus"
GRAFANA = REPOSITORY / "docker" / "grafana"
# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$job": "sercuescribe"}


def rules() -> list[dict[str, Any]]:
    """The alert rules of all groups."""
    document = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The Grafana dashboard."""
    found: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text())
    return found


def expressions() -> list[str]:
    """Every expression of the rules and the dashboard, its variables filled in."""
    targets = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    for name, filled in VARIABLES.items():
        targets = [target.replace(name, filled) for target in targets]
    return [rule["expr"] for rule in rules()] + targets


def series(expression: str) -> set[tuple[str, frozenset[str]]]:
    """The series that an expression selects: each name with the labels that it looks at. Raises ValueError."""
    found = set()

    def note(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector):
            found.add((node.name, frozenset(matcher.name for matcher in node.matchers.matchers)))
        return True

    promql_parser.walk(promql_parser.parse(expression), note)
    return found
