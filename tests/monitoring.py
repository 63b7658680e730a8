"""Reads what the files of configs/ ask of Prometheus, and what serve_app/metrics.py gives it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).parent.parent
DASHBOARDS = sorted((ROOT / "configs" / "grafana" / "dashboards").glob("*.json"))
RULES = ROOT / "configs" / "prometheus" / "alerts.yaml"

SUFFIXES = {"Gauge": ("",), "EventCounter": ("_total",), "Histogram": ("_bucket", "_count", "_sum")}
"""What Ray puts behind a metric's name, by its kind; `ray_` comes in front of all."""

RAY_LABELS = {"NodeAddress", "WorkerId", "SessionName", "Component", "Version", "le"}
SERVE_LABELS = {"application", "deployment", "replica", "component", "Name", "State", "Location"}
"""Labels of Ray's own metrics that the expressions here use."""


def defined_metrics() -> dict[str, str]:
    """Return each application metric's name, without prefix and suffix, and its kind."""
    tree = ast.parse((ROOT / "serve_app" / "metrics.py").read_text())
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SUFFIXES:
            name = ast.literal_eval(node.args[0])
            assert name not in found, f"{name} is defined twice"
            found[name] = node.func.id
    return found


def exported_metrics() -> set[str]:
    """Return the names under which Prometheus sees the application's metrics."""
    return {f"ray_{name}{suffix}" for name, kind in defined_metrics().items() for suffix in SUFFIXES[kind]}


def defined_tags() -> set[str]:
    """Return the labels that the application's metrics carry."""
    text = (ROOT / "serve_app" / "metrics.py").read_text()
    keys = re.findall(r"(?:tag_keys|keys)\s*=\s*\(([^)]*)\)", text)
    return {tag for group in keys for tag in re.findall(r'"(\w+)"', group)}


def alerts() -> list[dict[str, Any]]:
    """Return the alerts of all groups."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def panels(dashboard: Path) -> list[dict[str, Any]]:
    """Return a dashboard's panels, rows included."""
    found: list[dict[str, Any]] = json.loads(dashboard.read_text())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Yield where each expression stands, and the expression with Grafana's variables filled in."""
    for dashboard in DASHBOARDS:
        document = json.loads(dashboard.read_text())
        for panel in document["panels"]:
            for target in panel.get("targets", []):
                yield f"{dashboard.name}: {panel['title']}", filled_in(target["expr"])
        for variable in document["templating"]["list"]:
            if query := re.fullmatch(r"label_values\((.+), \w+\)", str(variable.get("query", ""))):
                yield f"{dashboard.name}: variable {variable['name']}", query[1]
    for rule in alerts():
        yield f"alert {rule['alert']}", rule["expr"]


def filled_in(expression: str) -> str:
    """Return a dashboard's expression as Grafana sends it."""
    return expression.replace("$__rate_interval", "1m").replace("$host", ".*")


class Selectors:
    """A visitor that collects what an expression selects.

    Attributes:
        names: of the metrics.
        labels: that are matched, grouped by or joined on.
    """

    def __init__(self, expression: str) -> None:
        self.names: set[str] = set()
        self.labels: set[str] = set()
        self._visit(promql_parser.parse(expression))

    def _visit(self, node: Any) -> None:
        match node:
            case promql_parser.VectorSelector(name=str(name)):
                self.names.add(name)
                self.labels |= {matcher.name for matcher in node.matchers.matchers}
            case promql_parser.MatrixSelector():
                self._visit(node.vector_selector)
            case promql_parser.AggregateExpr():
                if node.modifier is not None:
                    self.labels |= set(node.modifier.labels)
                self._visit(node.expr)
            case promql_parser.BinaryExpr():
                if node.modifier is not None and node.modifier.matching is not None:
                    self.labels |= set(node.modifier.matching.labels)
                self._visit(node.lhs)
                self._visit(node.rhs)
            case promql_parser.Call():
                for argument in node.args:
                    self._visit(argument)
            case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
                self._visit(node.expr)
            case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
                pass
            case _:
                raise TypeError(f"expected a node of PromQL, found {type(node).__name__}")


def of_series(name: str) -> str:
    """Return the metric's name of a line of Prometheus's text format."""
    return name.partition("{")[0]
