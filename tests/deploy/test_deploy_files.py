"""The files of deploy/, the Dockerfile and the compose files agree with each other and with the service."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE
from ray.util.metrics import Histogram, Metric

from service.cluster.metrics import GeneratorMetrics, IngressMetrics, JobMetrics, KernelMetrics, TokenizerMetrics
from service.cluster.ray_environment import HAPROXY_START, ray_environment
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker-compose.yml"
GPU = DEPLOY / "docker-compose.gpu.yml"

# Ray's own, as seen on the exporter of Ray 2.60; tests/deploy/test_compose_live.py asks a real Prometheus for them.
RAY_METRICS = {
    "ray_serve_deployment_replica_healthy": {"deployment"},
    "ray_node_mem_used": set(),
    "ray_node_mem_total": set(),
    "ray_node_cpu_utilization": set(),
    "up": {"job"},
}
ADDED_LABELS = {"replica", "deployment", "instance"}  # by Ray and Prometheus, to every series of the service


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard", DEPLOY / "grafana" / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def known_metrics() -> dict[str, set[str]]:
    """Every series name that may be asked for, and its labels: the service's as the replicas make them, and Ray's."""
    known = dict(RAY_METRICS)
    for observer in (TokenizerMetrics(), GeneratorMetrics(), KernelMetrics(), IngressMetrics(), JobMetrics()):
        for value in vars(observer).values():
            metric = getattr(value, "counter", value)
            if isinstance(metric, Metric):
                name, labels = f"ray_{metric.info['name']}", set(metric.info["tag_keys"])
                if isinstance(metric, Histogram):
                    name, labels = f"{name}_bucket", labels | {"le"}
                known[name] = labels | ADDED_LABELS
    return known


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in generator().dashboard()["panels"] for target in panel.get("targets", [])]


def alert_queries() -> list[str]:
    return [rule["expr"] for group in load(DEPLOY / "prometheus" / "alerts.yml")["groups"] for rule in group["rules"]]


def metric_names(query: str) -> set[str]:
    return set(re.findall(r"\b(ray_\w+|up)\b", query))


def test_the_dashboard_is_what_its_generator_writes() -> None:
    module = generator()
    assert module.TARGET.read_text() == module.render()


@pytest.mark.parametrize("query", [*dashboard_queries(), *alert_queries()])
def test_queries_ask_for_metrics_and_labels_that_exist(query: str) -> None:
    known = known_metrics()
    names = metric_names(query)
    assert names
    assert names <= known.keys()
    used = {label.strip() for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(",")}
    used |= set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', query))
    for name in names:
        assert used <= known[name] | ADDED_LABELS


SELECTOR = re.compile(r"sum \((?:rate|increase)\((\w+)(?:\{([^}]*)\})?\[\d+m\]\)\)")
MATCHERS = re.compile(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"')


def selects(labels: str, sample: dict[str, str]) -> bool:
    """Return whether PromQL's label matchers choose a sample; regular expressions are anchored there."""
    chosen = {
        "=": lambda value, wanted: value == wanted,
        "!=": lambda value, wanted: value != wanted,
        "=~": lambda value, wanted: re.fullmatch(wanted, value) is not None,
    }
    return all(chosen[sign](sample.get(name, ""), wanted) for name, sign, wanted in MATCHERS.findall(labels))


def fires(alert: str, label: str, events: dict[str, float]) -> bool:
    """Evaluate an alert's expression over sums of rates, where a label of the metric has these events per second."""

    def total(match: re.Match[str]) -> str:
        return str(float(sum(count for value, count in events.items() if selects(match[2] or "", {label: value}))))

    rules = {
        rule["alert"]: rule["expr"] for g in load(DEPLOY / "prometheus" / "alerts.yml")["groups"] for rule in g["rules"]
    }
    arithmetic = SELECTOR.sub(total, rules[alert])
    assert re.fullmatch(r"[\d.\s/>]+", arithmetic), arithmetic
    return bool(eval(arithmetic.replace("\n", " ")))


@pytest.mark.parametrize(
    ("alert", "label", "events", "expected"),
    [
        ("OmnitokErrors", "code", {"200": 980, "500": 20}, True),
        ("OmnitokErrors", "code", {"200": 980, "504": 20}, True),
        ("OmnitokErrors", "code", {"200": 995, "500": 5}, False),
        ("OmnitokErrors", "code", {"200": 500, "503": 500}, False),
        ("OmnitokErrors", "code", {"200": 100, "415": 500, "499": 400}, False),
        ("OmnitokShedding", "code", {"200": 940, "503": 60}, True),
        ("OmnitokShedding", "code", {"200": 960, "503": 40}, False),
        ("OmnitokShedding", "code", {"200": 500, "500": 500}, False),
        ("OmnitokMediaWorkersDie", "reason", {"crash": 10, "cpu": 6, "timeout": 6, "memory": 6}, True),
        ("OmnitokMediaWorkersDie", "reason", {"crash": 24}, False),
        ("OmnitokMediaWorkersDie", "reason", {"recycled": 1000}, False),
    ],
)
def test_alerts_fire_for_what_is_ours_to_mend(alert: str, label: str, events: dict[str, float], expected: bool) -> None:
    assert fires(alert, label, events) == expected


@pytest.mark.parametrize("code", ["200", "204", "400", "404", "415", "422", "499", "500", "503", "504"])
def test_the_errors_panel_shows_every_refusal_and_failure(code: str) -> None:
    panels = json.loads((DEPLOY / "grafana" / "dashboards" / "omnitok.json").read_text())["panels"]
    (panel,) = (panel for panel in panels if panel["title"] == "Errors by code")
    (labels,) = (re.findall(r"\{([^}]*)\}", target["expr"])[0] for target in panel["targets"])
    assert selects(labels, {"code": code}) == (code >= "400")


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    own = {name for name in known_metrics() if name.startswith("ray_omnitok_")}
    assert own
    assert own <= set().union(*map(metric_names, dashboard_queries()))


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in generator().dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_prometheus_scrapes_the_service_and_keeps_what_is_asked_for() -> None:
    config = load(DEPLOY / "prometheus" / "prometheus.yml")
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "omnitok")
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in load(COMPOSE)["services"]
    assert f"OMNITOK_METRICS_PORT={port}" in (ROOT / "Dockerfile").read_text()
    keep = next(rule["regex"] for rule in job["metric_relabel_configs"] if rule.get("action") == "keep")
    for query in [*dashboard_queries(), *alert_queries()]:
        for name in metric_names(query) - {"up"}:
            assert re.fullmatch(keep, name), name
    for file in config["rule_files"]:
        assert (DEPLOY / "prometheus" / file).is_file()


def test_grafana_finds_the_dashboard_and_its_data_source() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = load(provisioning / "datasources" / "prometheus.yml")["datasources"]
    assert source["uid"] == generator().DATASOURCE["uid"]
    services = load(COMPOSE)["services"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    (provider,) = load(provisioning / "dashboards" / "omnitok.yml")["providers"]
    path = provider["options"]["path"]
    assert f"./deploy/grafana/dashboards:{path}:ro" in services["grafana"]["volumes"]
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{path}/omnitok.json"


def test_only_three_ports_are_published_and_on_loopback_only() -> None:
    published = [port for service in load(COMPOSE)["services"].values() for port in service.get("ports", [])]
    assert sorted(int(port.rsplit(":", 1)[1]) for port in published) == [3000, 8000, 9090]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert all("ports" not in service for service in load(GPU)["services"].values())


@pytest.mark.parametrize("name", ["api", "prometheus", "grafana"])
def test_containers_are_confined(name: str) -> None:
    service = load(COMPOSE)["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert not service.keys() & {"privileged", "network_mode", "pid", "cap_add"}


@pytest.mark.parametrize("path", [COMPOSE, GPU])
def test_settings_passed_to_the_container_exist(path: Path) -> None:
    names = load(path)["services"]["api"]["environment"]
    assert {name.removeprefix("OMNITOK_").lower() for name in names} <= Settings.model_fields.keys()


def test_a_larger_cluster_is_started_with_what_the_command_sets() -> None:
    stated = dict(re.findall(r"^#   (\w+)=(\S+)", (DEPLOY / "serve.yaml").read_text(), re.MULTILINE))
    variables = ray_environment(Settings(proxy="haproxy"), Path("/tmp"))
    of_one_machine = re.compile("_PORT$|_LOC$|_PATH$|_BASE$|_FILE$|READY_CHECK|DRAINING_PERIOD|TIMEOUT_SERVER")
    for name, value in variables.items():
        if name != "OMNITOK_HAPROXY_BINARY" and not of_one_machine.search(name):
            assert stated[name].strip("'") == value.split()[0], name


def test_haproxy_starts_with_what_ray_cannot_say(tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(re.sub(r"\{%.*?%\}", "", HAPROXY_CONFIG_TEMPLATE))
    command = [HAPROXY_START, "-db", "-f", str(tmp_path / "haproxy.cfg"), "-sf", "1"]
    variables = ray_environment(Settings(proxy="haproxy", client_connections=7), tmp_path)
    environment = os.environ | {name: value for name, value in variables.items() if name.startswith("OMNITOK_")}
    environment["OMNITOK_HAPROXY_BINARY"] = shutil.which("echo") or "echo"
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == command[1:]
    config = (tmp_path / "haproxy.cfg").read_text()
    assert 'lf-string "Path' not in config
    assert "error_file_path }}\n" not in config
    assert config.count("timeout http-request 15s") == 1
    assert "bind 127.0.0.1:{{ config.stats_port }}" in config
    frontend = config.partition("\nfrontend http_frontend")[2].partition("\nbackend ")[0]
    for limit in ("sc0_conn_cur gt 7 }", "req.hdrs,length gt 16384", "wait-for-body time 10s", "status 431"):
        assert frontend.count(limit) == config.count(limit) == 1, limit
    assert "tune.http.maxhdr 64\n" in config.partition("\ndefaults")[0]
    head, _, body = (tmp_path / "haproxy.cfg.503.http").read_bytes().partition(b"\r\n\r\n")
    assert json.loads(body)["code"] == "not-ready"
    assert f"Content-Length: {len(body)}" in head.decode()


def test_the_image_runs_the_command_as_nobody_special() -> None:
    final = (ROOT / "Dockerfile").read_text().rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert final.index("USER ") < final.index("ENTRYPOINT")
    assert re.search(r'^ENTRYPOINT \["omnitok"\]\nCMD \["serve"\]$', final, re.MULTILINE)
    for name in re.findall(r"\bOMNITOK_(\w+)=", final):
        assert name.lower() in Settings.model_fields


def test_what_the_image_copies_enters_the_build() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


IN_THE_IMAGE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
sys.path = [sys.argv[1], *(folder for folder in sys.path if folder != sys.argv[2])]
from typer.main import get_command
from service.cli.app import app
group = get_command(app)
for name in group.list_commands(None):
    try:
        group.main([name, "--help"])
    except SystemExit as end:
        assert end.code == 0, name
    print("listed", name)
"""


def test_the_command_lists_in_the_image_what_it_can_run_there(tmp_path: Path) -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for name in line.split()[:-1]:
            (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-P", "-c", IN_THE_IMAGE, str(tmp_path), str(ROOT)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^listed (\w+)$", done.stdout, re.MULTILINE)
    assert {"serve", "encode", "convert"} <= set(listed)
    assert not {"data", "train", "evaluate", "reproduce"} & set(listed)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, which comes with Prometheus")
def test_prometheus_accepts_its_configuration_and_the_alerts_fire() -> None:
    subprocess.run(["promtool", "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")], check=True)
    subprocess.run(["promtool", "test", "rules", str(Path(__file__).parent / "alerts_test.yml")], check=True)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose; no engine")
def test_compose_accepts_the_gpu_variant() -> None:
    command = ["docker-compose", "--project-directory", str(ROOT), "-f", str(COMPOSE), "-f", str(GPU), "config"]
    merged = yaml.safe_load(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    api = merged["services"]["api"]
    assert api["image"] == "omnitok:cuda"
    assert api["build"]["args"] == {"TORCH": "cuda"}
    assert api["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert api["read_only"] is True
