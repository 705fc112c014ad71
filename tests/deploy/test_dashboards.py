"""The dashboards are what their generator writes, complete, and ask what Prometheus understands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_tools import needs, run_tool

from benchmarks.dashboards.__main__ import BOARDS, TARGET, files
from service.metrics.definitions import METRICS, PREFIX
from service.metrics.exporter import registry
from service.metrics.gpu import READINGS, GpuCollector

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
NEUTRAL = {"In progress", "GPUs", "Use"}  # numbers that are neither good nor bad
BUILT_IN = {"__rate_interval", "__value", "__all"}  # of Grafana
DASHBOARDS = sorted(TARGET.rglob("*.json"))


class NoDevices:
    """NVIDIA's library on a machine whose driver has no device."""

    NVMLError = Exception

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 0


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def panels(path: Path) -> list[dict[str, Any]]:
    return [panel for panel in load(path)["panels"] if panel["type"] != "row"]


def queries(path: Path) -> list[str]:
    document = load(path)
    found = [target["expr"] for panel in panels(path) for target in panel.get("targets", [])]
    return found + [annotation["expr"] for annotation in document["annotations"]["list"]]


def runbook_queries(page: Path) -> list[str]:
    return re.findall(r"promtool query instant \S+ '(.*)'$", page.read_text(), re.MULTILINE)


def test_the_files_are_what_the_generator_writes() -> None:
    assert {path: path.read_text() for path in DASHBOARDS} == files()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_say_what_they_show(path: Path) -> None:
    document = load(path)
    for panel in panels(path):
        assert panel["title"]
        assert panel["description"]
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}"
        if panel["type"] == "stat":
            colors = {step["color"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]}
            assert (len(colors) >= 2) != (panel["title"] in NEUTRAL)
            assert panel["fieldConfig"]["defaults"]["noValue"]
    variables = {variable["name"] for variable in document["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]\w*)", json.dumps(document["panels"])))
    assert used <= variables | BUILT_IN
    assert "datasource" in variables
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in load(path)["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_links_lead_to_dashboards() -> None:
    uids = {load(path)["uid"] for path in DASHBOARDS}
    text = "".join(path.read_text() for path in DASHBOARDS)
    assert len(uids) == len(DASHBOARDS)
    assert all(len(uid) <= 40 for uid in uids)  # Grafana's limit
    assert {link.rstrip("-") for link in re.findall(r"/d/([\w-]+)", text)} - {"runbook"} <= uids


def test_dashboards_have_the_variables_of_what_they_show() -> None:
    names = {board.name: set(board.variables) for board in BOARDS}
    assert all("instance" in variables for variables in names.values())
    assert "route" in names["requests"]
    assert {"replica", "model"} <= names["tokenizer"] & names["generation"]


def test_grafana_finds_the_dashboards_and_their_data_source() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert "prometheus" in compose
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/omnitok.yml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in compose["grafana"]["volumes"]
    home = compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (TARGET / Path(home).relative_to(folder)).is_file()


def test_runbooks_name_settings_that_compose_passes_on() -> None:
    files = [ROOT / "docker-compose.yml", ROOT / "deploy" / "docker-compose.gpu.yml"]
    passed = {name for file in files for name in yaml.safe_load(file.read_text())["services"]["api"]["environment"]}
    for page in PAGES:
        assert not set(re.findall(r"OMNITOK_\w+", page.read_text())) - passed, page.name


def test_every_metric_of_the_service_is_on_a_dashboard() -> None:
    shown = {name for path in DASHBOARDS for query in queries(path) for name in re.findall(r"omnitok_\w+", query)}
    shown |= {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert not {metric.full_name for metric in METRICS.values()} - shown


def test_queries_and_rules_name_metrics_that_exist(tmp_path: Path) -> None:
    """A misspelt name would be a panel without data and an alert that never fires."""
    recorded = re.findall(r"record: (\S+)", (RULES / "recording.yml").read_text())
    shown = {*recorded, *(metric.full_name for metric in METRICS.values())}
    shown |= {f"{PREFIX}{reading.name}" for reading in READINGS}
    every, _ = registry(tmp_path, {})
    for metric in [*every.collect(), *GpuCollector(NoDevices()).collect()]:
        shown.add(metric.name + ("_total" if metric.type == "counter" else ""))
    asked = [*(query for path in DASHBOARDS for query in queries(path))]
    asked += [query for page in PAGES for query in runbook_queries(page)]
    for file in ("alerts.yml", "recording.yml"):
        groups = yaml.safe_load((RULES / file).read_text())["groups"]
        asked += [rule["expr"] for group in groups for rule in group["rules"]]
    named = {name for query in asked for name in re.findall(r"\bomnitok[_:][\w:]+", re.sub('".*?"', "", query))}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} <= shown


def test_queries_select_by_labels_that_exist() -> None:
    labels = {metric.full_name: {*metric.labels, "instance"} for metric in METRICS.values()}
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    rules += (ROOT / "deploy" / "prometheus" / "recording.yml").read_text()
    asked = [*(query for path in DASHBOARDS for query in queries(path)), rules]
    asked += [query for page in PAGES for query in runbook_queries(page)]
    for name, selector in re.findall(r"(omnitok_\w+)\{([^}]*)\}", "\n".join(asked)):
        metric = re.sub("_(bucket|sum|count)$", "", name)
        if metric in labels:  # the others describe the machine, and have no labels of ours
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector)) <= labels[metric] | {"le"}, (name, selector)


@needs("promtool")
def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    asked = [query for path in DASHBOARDS for query in queries(path)]
    asked += [query for page in PAGES for query in runbook_queries(page)]
    assert len(asked) > 200
    rules = [
        {
            "record": "q",
            "expr": re.sub(r"\$[a-z]\w+", ".*", query.replace("$__rate_interval", "1m")),
            "labels": {"n": str(n)},
        }
        for n, query in enumerate(asked)
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run_tool("promtool", "check", "rules", "--lint=none", str(tmp_path / "queries.yml"))
