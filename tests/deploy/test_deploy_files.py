"""The files of deploy/, the Dockerfile and the compose files agree with each other and with the service."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from service.cluster.ray_environment import HAPROXY_PORTS, HAPROXY_START, environment, ray_environment
from service.keys import KeyFileError, check_access, new_key, write_keys
from service.loopback import is_loopback
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker-compose.yml"
GPU = DEPLOY / "docker-compose.gpu.yml"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_prometheus_scrapes_the_service_and_keeps_what_is_asked_for() -> None:
    config = load(DEPLOY / "prometheus" / "prometheus.yml")
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for name, setting in {"omnitok": "METRICS_PORT", "ray": "RAY_METRICS_PORT", "edge": ""}.items():
        (target,) = jobs[name]["static_configs"][0]["targets"]
        host, port = target.split(":")
        assert host in load(COMPOSE)["services"]
        assert jobs[name]["sample_limit"]
        assert not setting or f"OMNITOK_{setting}={port}" in (ROOT / "Dockerfile").read_text()
    assert int(port) == HAPROXY_PORTS["RAY_SERVE_HAPROXY_METRICS_PORT"]
    for file in config["rule_files"]:
        assert (DEPLOY / "prometheus" / file).is_file()


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
    documented = (ROOT / "docs" / "settings.md").read_text()
    assert not [name for name in names if f"`{name}`" not in documented]


def started_by_compose(**shell: str) -> Settings:
    """Return the settings of `omnitok serve` in the container: those of the image, and those of compose."""
    final = (ROOT / "Dockerfile").read_text().rsplit("\nFROM ", 1)[1]
    variables = dict(re.findall(r"\b(OMNITOK_\w+)=(\S+)", final))
    for name, value in load(COMPOSE)["services"]["api"]["environment"].items():
        default = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value) if value else None
        if (given := shell.get(name, default)) is not None:
            variables[name] = given
    with environment(variables):
        return Settings()


def test_compose_starts_a_service_that_may_listen(tmp_path: Path) -> None:
    settings = started_by_compose()
    assert not is_loopback(settings.host)
    assert settings.generators  # for the README's lines
    check_access(settings)
    with pytest.raises(KeyFileError, match="OMNITOK_KEYS"):
        check_access(started_by_compose(OMNITOK_OPEN_ACCESS="false"))
    keys = str(tmp_path / "keys.json")
    write_keys(Path(keys), [new_key("a", ["encode"])[1]])
    settings = started_by_compose(OMNITOK_KEYS=keys, OMNITOK_OPEN_ACCESS="false")
    assert settings.keys == Path(keys)
    check_access(settings)


def test_a_larger_cluster_is_started_with_what_the_command_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    stated = dict(re.findall(r"^#   (\w+)=(\S+)", (DEPLOY / "serve.yaml").read_text(), re.MULTILINE))
    variables = ray_environment(Settings(proxy="haproxy", metrics_host=stated["OMNITOK_METRICS_HOST"]), Path("/tmp"))
    of_one_machine = re.compile("SPT_NOENV|_LOC$|_PATH$|_BASE$|_FILE$|DRAINING_PERIOD|TIMEOUT_SERVER")
    for name, value in variables.items():
        if name != "OMNITOK_HAPROXY_BINARY" and not of_one_machine.search(name):
            assert stated[name].strip("'") == value.split()[0], name


def test_haproxy_starts_with_what_ray_cannot_say(tmp_path: Path) -> None:
    written = re.sub(r"\{%.*?%\}", "", HAPROXY_CONFIG_TEMPLATE).replace("{{ config.log_target }}", "127.0.0.1:514")
    (tmp_path / "haproxy.cfg").write_text(written)
    command = [HAPROXY_START, "-db", "-f", str(tmp_path / "haproxy.cfg"), "-sf", "1"]
    variables = ray_environment(Settings(proxy="haproxy", client_connections=7), tmp_path)
    environment = os.environ | {name: value for name, value in variables.items() if name.startswith("OMNITOK_")}
    environment["OMNITOK_HAPROXY_BINARY"] = shutil.which("echo") or "echo"
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == command[1:]
    config = (tmp_path / "haproxy.cfg").read_text()
    assert 'lf-string "Path' not in config
    assert "127.0.0.1:514" in written, "Ray's default"
    assert "127.0.0.1:514" not in config
    assert "error_file_path }}\n" not in config
    assert config.count("timeout http-request 15s") == 1
    assert "bind 127.0.0.1:{{ config.stats_port }}" in config
    assert "bind 127.0.0.1:{{ config.metrics_port }}" in config
    frontend = config.partition("\nfrontend http_frontend")[2].partition("\nbackend ")[0]
    for limit in (
        "fe_conn gt ",
        "track-sc0 src,ipmask(32,64)",
        "sc0_conn_cur gt 7 }",
        "req.hdrs,length gt 16384",
        "wait-for-body time 10s",
        "_backend refused-",
    ):
        assert frontend.count(limit) == config.count(limit) == 1, limit
    assert (
        frontend.index("_backend refused-") < frontend.index("_backend {{") < frontend.index("default_backend default")
    )
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


def copied_into_the_image() -> set[str]:
    lines = re.findall(r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return {name for line in lines for name in line.split()[:-1]}


def test_what_the_image_copies_enters_the_build() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = copied_into_the_image()
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
    for name in copied_into_the_image():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-P", "-c", IN_THE_IMAGE, str(tmp_path), str(ROOT)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^listed (\w+)$", done.stdout, re.MULTILINE)
    assert {"serve", "encode", "convert"} <= set(listed)
    assert not {"data", "train", "evaluate", "reproduce"} & set(listed)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose; no engine")
def test_compose_accepts_the_gpu_variant() -> None:
    command = ["docker-compose", "--project-directory", str(ROOT), "-f", str(COMPOSE), "-f", str(GPU), "config"]
    merged = yaml.safe_load(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    api = merged["services"]["api"]
    assert api["image"] == "omnitok:cuda"
    assert api["build"]["args"] == {"TORCH": "cuda"}
    assert api["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert api["read_only"] is True
