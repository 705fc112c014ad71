"""Every alert fires for its fault, nothing else does, and a healthy service is silent: promtool runs the real rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import FAULTS, HEALTHY, STEP_SECONDS, Fault
from prometheus_tools import needs, run_tool

from service.metrics.definitions import WORK_ROUTES

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def unit_test(fault: Fault) -> dict[str, Any]:
    """Return a fault as promtool wants it: at each minute exactly these alerts fire."""
    series = HEALTHY | fault.series
    checks = []
    for minute, firing in sorted(fault.firing.items()):
        samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
        expression = 'group by (alertname) (ALERTS{alertstate="firing"})'
        checks.append({"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples})
    return {
        "name": fault.name,
        "interval": f"{STEP_SECONDS}s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": checks,
    }


@needs("promtool")
def test_alerts_fire_for_their_faults_and_for_nothing_else(tmp_path: Path) -> None:
    tests = {
        "rule_files": [str(RULES / "recording.yml"), str(RULES / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [unit_test(fault) for fault in FAULTS],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(tests))
    run_tool("promtool", "test", "rules", "test.yml", folder=tmp_path)


def test_objectives_cover_all_routes_of_work() -> None:
    selected = re.findall(r'route=~"(.*?)"', (RULES / "recording.yml").read_text())
    work = {route for route in WORK_ROUTES if route != "/jobs"}  # the work of jobs is not done in the request
    fast = {route for route in work if re.search("encode|decode|reconstruct", route)}
    covered = [{route for route in WORK_ROUTES if re.fullmatch(pattern, route)} for pattern in selected]
    assert all(routes in (work, fast) for routes in covered)
    assert work in covered
    assert fast in covered


def test_each_alert_has_a_fault() -> None:
    fired = {name for fault in FAULTS for firing in fault.firing.values() for name in firing}
    assert fired == alerts().keys()


@needs("promtool")
@pytest.mark.parametrize("file", ["recording.yml", "alerts.yml"])
def test_promtool_accepts_the_rules(file: str) -> None:
    run_tool("promtool", "check", "rules", "--lint=all", str(RULES / file))


@needs("amtool")
def test_alertmanager_accepts_its_example_and_routes_by_severity() -> None:
    config = str(RULES / "alertmanager.yml")
    run_tool("amtool", "check-config", config)
    for severity in ("page", "ticket"):
        found = run_tool("amtool", "config", "routes", "test", f"--config.file={config}", f"severity={severity}")
        assert found.strip() == f"{severity}s"


def test_alertmanager_names_alerts_that_exist() -> None:
    named = re.findall(r"Omnitok[\w.*]*", (RULES / "alertmanager.yml").read_text())
    assert all(any(re.fullmatch(name, alert) for alert in alerts()) for name in named)


def test_an_alert_of_a_part_silences_nothing_of_the_others() -> None:
    rules = yaml.safe_load((RULES / "alertmanager.yml").read_text())["inhibit_rules"]
    for source, rule in ((" ".join(rule["source_matchers"]), rule) for rule in rules):
        summaries = [alert["annotations"]["summary"] for name, alert in alerts().items() if name in source]
        of_instance = any("$labels.instance" in summary for summary in summaries)
        assert rule.get("equal", []) == (["instance"] if of_instance else []), source
        assert "deployment=" in source or not any("$labels.deployment" in summary for summary in summaries), source


@pytest.mark.parametrize("name", alerts())
def test_each_alert_has_a_runbook(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["runbook_url"].endswith(f"/d/runbook-{name}")
    page = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    assert re.findall("^## (.*)$", page, re.MULTILINE) == ["Confirm", "Mitigate", "Fix"]
    remedy = page.partition("## Mitigate")[2].partition("## Fix")[0]
    assert re.search("^docker compose (restart|up -d|stop) api$", remedy, re.MULTILINE) is None or "kubectl" in remedy
