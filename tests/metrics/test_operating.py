"""The dashboard and the alerts: of metrics that there are, valid to Prometheus, and each alert explained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from gateway.metrics import catalogue
from gateway.metrics.catalogue import METRICS, Kind
from gateway.protocol import errors
from tests.faults.host import unless_ci
from tests.manual import manual

FOLDER = Path(catalogue.__file__).parent
ALERTS = (FOLDER / "alerts.yml").read_text()
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def known() -> set[str]:
    names = set()
    for metric in METRICS:
        names.add(metric.full_name)
        if metric.kind is Kind.HISTOGRAM:
            names |= {f"{metric.full_name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"run_gateway_\w+", expression)}
    assert len(asked) > 20
    assert asked <= known()


def test_the_alerts_watch_metrics_that_there_are() -> None:
    asked = set(re.findall(r"run_gateway_\w+", ALERTS))
    assert len(asked) > 8
    assert asked <= known()


def test_refusals_are_called_by_types_that_there_are() -> None:
    types = {each.type for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "type")}
    asked = {name for found in re.findall(r'type=~?"([^"]+)"', ALERTS) for name in found.split("|")}
    assert asked
    assert asked <= types


def test_labels_are_those_that_metrics_have() -> None:
    labels = {metric.full_name: metric.label for metric in METRICS}
    for expression in [*EXPRESSIONS, *re.findall(r"expr: (.*)", ALERTS)]:
        for name, selector in re.findall(r"(run_gateway_\w+?)(?:_bucket)?\{([^}]*)\}", expression):
            asked = set(re.findall(r"(\w+)=", selector)) - {"instance", "job"}
            assert asked <= {labels[name]}, expression


def test_each_alert_has_its_paragraph() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    assert re.findall(r"^\| `(RunGateway\w+)`", manual("metrics"), re.MULTILINE) == alerts


def test_panels_have_their_own_place() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        unless_ci("promtool is not installed")
    assert found is not None
    return found


def test_prometheus_takes_the_alerts() -> None:
    done = subprocess.run([promtool(), "check", "rules", FOLDER / "alerts.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_can_read_what_panels_ask(tmp_path: Path) -> None:
    rules = "groups:\n- name: panels\n  rules:\n"
    for number, expression in enumerate(EXPRESSIONS):
        asked = json.dumps(expression.replace("$__rate_interval", "1m").replace("$__range", "1h"))
        rules += f"  - record: panel_{number}\n    expr: {asked}\n"
    (tmp_path / "panels.yml").write_text(rules)
    done = subprocess.run([promtool(), "check", "rules", tmp_path / "panels.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


FIRES = """
rule_files: [{rules}]
evaluation_interval: 30s
tests:
  - interval: 30s
    input_series:
      - series: 'run_gateway_listening{{instance="a"}}'
        values: '1x10 0x30'
      - series: 'run_gateway_missing_events_total{{instance="a"}}'
        values: '0x10 5x30'
      - series: 'run_gateway_refusals_total{{instance="a", type="unavailable"}}'
        values: '0x10 30+30x30'
    alert_rule_test:
      - {{eval_time: 4m, alertname: RunGatewayPolls}}
      - {{eval_time: 4m, alertname: RunGatewayWithoutDatabase}}
      - eval_time: 12m
        alertname: RunGatewayPolls
        exp_alerts:
          - exp_labels: {{severity: ticket, instance: a}}
            exp_annotations: {{summary: "a does not hear of other Machines' events, and polls for them."}}
      - eval_time: 12m
        alertname: RunGatewayWithoutDatabase
        exp_alerts:
          - exp_labels: {{severity: page, instance: a}}
            exp_annotations: {{summary: "a answers 503: its database does not answer."}}
      - eval_time: 12m
        alertname: RunGatewayLostEvents
        exp_alerts:
          - exp_labels: {{severity: page, instance: a}}
            exp_annotations:
              summary: "A database server took over that lacks events which readers have been shown."
"""


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    (tmp_path / "fires.yml").write_text(FIRES.format(rules=FOLDER / "alerts.yml"))
    done = subprocess.run([promtool(), "test", "rules", tmp_path / "fires.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
