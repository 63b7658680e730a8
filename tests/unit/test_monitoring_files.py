"""Dashboard, alert rules, runbook and what gathers them agree with each other and with the metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment import ROOT, printed, text_of, yaml_of
from tests.monitoring import (
    DASHBOARDS,
    RAY_LABELS,
    RULES,
    SERVE_LABELS,
    Selectors,
    alerts,
    defined_metrics,
    defined_tags,
    exported_metrics,
    expressions,
    panels,
)

pytestmark = pytest.mark.unit

RUNBOOK = "docs/operations.md"


def runbook_rows() -> dict[str, list[str]]:
    """The runbook's rows: alert to its cells."""
    rows = re.findall(r'^\| <a id="(\w+)"></a>`(\w+)` \|(.*)\|$', text_of(RUNBOOK), re.MULTILINE)
    assert all(anchor == alert.lower() for anchor, alert, _ in rows)
    return {alert: [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)] for _, alert, rest in rows}


# What is asked for is exported


def test_expressions_ask_only_for_metrics_that_exist() -> None:
    known = exported_metrics()
    asked = {
        name: place
        for place, expression in expressions()
        for name in Selectors(expression).names
        if name.startswith("ray_avatar_")
    }
    assert len(asked) > 30
    assert {name: place for name, place in asked.items() if name not in known} == {}


def test_expressions_use_only_labels_that_exist() -> None:
    known = defined_tags() | RAY_LABELS | SERVE_LABELS
    used = {(place, label) for place, text in expressions() for label in Selectors(text).labels}
    assert {(place, label) for place, label in used if label not in known} == set()


def test_no_mean_is_taken_from_a_histograms_sum() -> None:
    assert [place for place, text in expressions() if re.search(r"ray_avatar_\w+_sum\b", text)] == []


def test_legends_name_labels_that_their_expression_keeps() -> None:
    for dashboard in DASHBOARDS:
        for panel in panels(dashboard):
            for target in panel.get("targets", []):
                for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                    assert label in defined_tags() | RAY_LABELS | SERVE_LABELS
                    grouped = re.findall(r"\bby \(([^)]*)\)", target["expr"])
                    assert not grouped or any(label in group for group in grouped), panel["title"]


def test_every_metric_is_on_a_dashboard_and_in_the_runbooks_table() -> None:
    shown = {
        name.removeprefix("ray_")
        for _, text in expressions()
        for name in Selectors(text).names
        if name.startswith("ray_avatar_")
    }
    for name, kind in defined_metrics().items():
        suffixes = {"Gauge": [""], "EventCounter": ["_total"], "Histogram": ["_bucket", "_count"]}[kind]
        assert any(name + suffix in shown for suffix in suffixes) or name == "avatar_batch_windows", name
    listed = re.findall(r"`(avatar_\w+)`", text_of(RUNBOOK).partition("## Runbook")[0])
    assert set(listed) == set(defined_metrics())
    assert len(listed) == len(set(listed))


# Dashboard


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap_and_have_ids_of_their_own(dashboard: Path) -> None:
    cells: dict[tuple[int, int], str] = {}
    for panel in panels(dashboard):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, f"{panel['title']} lies over {cells[x, y]}"
                cells[x, y] = panel["title"]
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_ask_the_chosen_data_source_and_say_what_they_show(dashboard: Path) -> None:
    variables = {variable["name"] for variable in json.loads(dashboard.read_text())["templating"]["list"]}
    assert variables == {"datasource", "host"}
    for panel in panels(dashboard):
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        used = {name for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
        assert used <= variables | {"__rate_interval"}


def test_alerts_that_panels_name_exist_and_every_alert_is_named() -> None:
    named = {
        name
        for dashboard in DASHBOARDS
        for panel in panels(dashboard)
        for name in re.findall(r"\bAvatar[A-Z]\w+", panel.get("description", ""))
    }
    known = {rule["alert"] for rule in alerts()}
    assert named <= known
    assert known - named <= {"AvatarUnseen", "AvatarWindowsRetried"}


# Alerts and runbook


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alert_names_its_row_of_the_runbook(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["runbook"] == f"{RUNBOOK}#{rule['alert'].lower()}"
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["annotations"]["summary"].endswith(".")


def test_runbook_has_one_row_for_each_alert_and_no_other() -> None:
    assert list(runbook_rows()) == [rule["alert"] for rule in alerts()]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_runbooks_row_names_a_symptom_a_remedy_and_metrics_that_the_alert_watches(
    rule: dict[str, Any],
) -> None:
    symptom, metrics, remedy = runbook_rows()[rule["alert"]]
    assert symptom
    assert remedy
    watched = Selectors(rule["expr"]).names
    named = set(re.findall(r"`(\w+)`", metrics))
    assert named
    assert any(name.removeprefix("ray_").startswith(tuple(named)) or name in named for name in watched)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alert_has_a_series_on_which_it_fires_and_one_on_which_it_does_not(rule: dict[str, Any]) -> None:
    text = text_of("configs/prometheus/alerts_test.yaml")
    fires = f'alertname="{rule["alert"]}"' in text or f"alertname: {rule['alert']}\n" in text
    assert fires
    assert re.search(rf"alertname: {rule['alert']}, eval_time: \w+, exp_alerts: \[\]", text)


def test_promtool_fires_every_alert_on_its_series_and_none_on_a_healthy_service() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    folder = RULES.parent
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run([promtool, *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


# What gathers and shows them


def test_prometheus_loads_the_rules_and_reads_the_addresses_that_ray_writes() -> None:
    from ray._private import ray_constants

    config = yaml_of("configs/prometheus/prometheus.yaml")
    assert config["rule_files"] == [RULES.name]
    (file,) = config["scrape_configs"][0]["file_sd_configs"][0]["files"]
    assert file == f"/tmp/ray/{ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE}"


def test_grafana_finds_prometheus_and_the_dashboards_where_compose_puts_them() -> None:
    services = yaml_of("compose.yaml")["services"]
    mounted = dict(entry.split(":")[1::-1] for entry in services["grafana"]["volumes"])
    provider = yaml_of("configs/grafana/provisioning/dashboards/avatar.yaml")["providers"][0]
    assert mounted[provider["options"]["path"]] == "./configs/grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./configs/grafana/provisioning"
    source = yaml_of("configs/grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    home = [entry for entry in services["grafana"]["environment"] if "HOME_DASHBOARD" in entry]
    assert home == [
        f"GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH={provider['options']['path']}/{DASHBOARDS[0].name}"
    ]


def test_prometheus_in_compose_reads_its_files_and_rays() -> None:
    services = yaml_of("compose.yaml")["services"]
    mounted = {entry.split(":")[1]: entry.split(":")[0] for entry in services["prometheus"]["volumes"]}
    assert mounted["/etc/prometheus"] == "./configs/prometheus"
    assert "--config.file=/etc/prometheus/prometheus.yaml" in services["prometheus"]["command"]
    server = {entry.split(":")[1]: entry.split(":")[0] for entry in services["webrtc-server"]["volumes"]}
    assert mounted["/tmp/ray"] == server["/tmp/ray"]


def test_prometheus_rule_for_kubernetes_is_the_same_rules() -> None:
    rule = yaml.safe_load(printed("scripts/prometheus-rule"))
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"]["groups"] == yaml_of("configs/prometheus/alerts.yaml")["groups"]


def test_files_that_the_operations_document_links_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text_of(RUNBOOK))
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
