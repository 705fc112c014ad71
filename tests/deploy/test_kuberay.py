"""The Kubernetes manifests as kustomize builds them: valid by their schemas, confined, and in step with the service."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.scripts.scripts import drain_node
from ray.serve.schema import ServeDeploySchema

from service.cluster.ray_environment import ray_environment
from service.settings import Settings

HERE = Path(__file__).parent
DEPLOY = HERE.parents[1] / "deploy"
KUBERNETES = json.loads((HERE / "schemas" / "kubernetes.json").read_text())["$defs"]
CUSTOM = yaml.safe_load((HERE / "schemas" / "custom_resources.yaml").read_text())["$defs"]
KINDS = {
    "Namespace": "io.k8s.api.core.v1.Namespace",
    "Service": "io.k8s.api.core.v1.Service",
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "StatefulSet": "io.k8s.api.apps.v1.StatefulSet",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
}
OF_ONE_NODE = re.compile(
    "SPT_NOENV|_LOC$|_SOCKET_PATH$|_BASE$|_FILE$|DRAINING_PERIOD|TIMEOUT_SERVER|BINARY|CONNECTIONS"
)

Manifest = dict[str, Any]


@functools.cache
def build(folder: str) -> list[Manifest]:
    command = [str(Path(sys.executable).parent / "kubectl"), "kustomize", str(DEPLOY / "kuberay" / folder)]
    environment = {"HOME": os.devnull, "PATH": os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=["base", "gpu"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return build(request.param)


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def cluster(manifests: list[Manifest]) -> Manifest:
    return one(manifests, "RayService")["spec"]["rayClusterConfig"]


def ray_pods(manifests: list[Manifest]) -> list[Manifest]:
    config = cluster(manifests)
    return [group["template"] for group in (config["headGroupSpec"], *config["workerGroupSpecs"])]


def pods(manifests: list[Manifest]) -> list[Manifest]:
    return [*ray_pods(manifests), one(manifests, "StatefulSet")["spec"]["template"]]


def settings_map(manifests: list[Manifest], name: str) -> dict[str, str]:
    (found,) = (m["data"] for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"].startswith(name))
    return found


def check(manifest: Manifest, name: str, definitions: Manifest) -> None:
    jsonschema.validate(manifest, {"$ref": f"#/$defs/{name}", "$defs": definitions})


def test_manifests_are_valid_by_their_schemas(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        kind = manifest["kind"]
        check(manifest, KINDS.get(kind, kind), KUBERNETES if kind in KINDS else CUSTOM)
    for template in ray_pods(manifests):
        check(template, "io.k8s.api.core.v1.PodTemplateSpec", KUBERNETES)
    ServeDeploySchema.model_validate(yaml.safe_load(one(manifests, "RayService")["spec"]["serveConfigV2"]))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "rayClusterConfig", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterConfig", "headGroupSpek"), {}),
        (("spec", "upgradeStrategy", "type"), "Rolling"),
    ],
)
def test_the_schema_refuses_what_kuberay_would(path: tuple[str, ...], value: Any) -> None:
    service = copy.deepcopy(one(build("base"), "RayService"))
    place: Any = service
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(service, "RayService", CUSTOM)


def test_containers_are_confined(manifests: list[Manifest]) -> None:
    for template in pods(manifests):
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["readinessProbe"]
            assert container["livenessProbe"]
    for template in ray_pods(manifests):
        (container,) = template["spec"]["containers"]
        assert container["startupProbe"]
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        for path in ("/tmp", "/home/omnitok", "/dev/shm"):
            assert mounts[path]["emptyDir"]["sizeLimit"]
        assert template["spec"]["terminationGracePeriodSeconds"] > Settings().drain_seconds


def test_settings_and_variables_are_those_of_the_service(
    manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    stated = settings_map(manifests, "omnitok-settings")
    assert {name.removeprefix("OMNITOK_").lower() for name in stated} <= Settings.model_fields.keys()
    values = {name.removeprefix("OMNITOK_").lower(): value for name, value in stated.items()}
    settings = Settings(**{name: json.loads(v) if v.startswith("[") else v for name, v in values.items()})
    ray = settings_map(manifests, "omnitok-ray")
    for name, value in ray_environment(settings, Path("/tmp")).items():
        if not OF_ONE_NODE.search(name):
            assert ray[name] == value, name
    for name in ("RAY_SERVE_HAPROXY_BINARY_PATH", "OMNITOK_HAPROXY_BINARY"):
        assert ray[name].startswith("/opt/venv/lib/python3.11/site-packages/")
    (worker,) = cluster(manifests)["workerGroupSpecs"]
    assert settings.max_tokenizer_replicas is not None
    assert worker["maxReplicas"] >= settings.max_tokenizer_replicas
    assert worker["minReplicas"] >= 2


def test_everything_that_is_named_exists(manifests: list[Manifest]) -> None:
    names = {manifest["metadata"]["name"] for manifest in manifests}
    for template in ray_pods(manifests):
        (container,) = template["spec"]["containers"]
        assert {source["configMapRef"]["name"] for source in container["envFrom"]} <= names
    labels = [template["metadata"]["labels"].items() for template in pods(manifests)]
    chosen = [one(manifests, "PodDisruptionBudget"), one(manifests, "PodMonitor")]
    selectors = [manifest["spec"]["selector"]["matchLabels"] for manifest in chosen]
    selectors += [m["spec"]["podSelector"]["matchLabels"] for m in manifests if m["kind"] == "NetworkPolicy"]
    for selector in selectors:
        assert any(selector.items() <= pod for pod in labels), selector
    address = cluster(manifests)["gcsFaultToleranceOptions"]["redisAddress"]
    redis = one(manifests, "Service")
    assert address == f"{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}"


def test_a_policy_lets_callers_to_the_api_only(manifests: list[Manifest]) -> None:
    (policy,) = (m for m in manifests if m["kind"] == "NetworkPolicy" and m["metadata"]["name"] == "omnitok")
    (rule,) = (r for r in policy["spec"]["ingress"] if "omnitok-client" in str(r))
    (worker,) = (template for template in ray_pods(manifests) if "worker" in str(template["metadata"]["labels"]))
    ports = {port["name"]: port["containerPort"] for port in worker["spec"]["containers"][0]["ports"]}
    assert [port["port"] for port in rule["ports"]] == [ports["serve"]]


def test_prometheus_scrapes_pods_as_it_scrapes_compose(manifests: list[Manifest]) -> None:
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    }
    declared = {port["name"] for pod in ray_pods(manifests) for port in pod["spec"]["containers"][0]["ports"]}
    for endpoint in one(manifests, "PodMonitor")["spec"]["podMetricsEndpoints"]:
        assert endpoint["port"] in declared
        (job,) = (rule["replacement"] for rule in endpoint["relabelings"] if rule.get("targetLabel") == "job")
        snake = {"sourceLabels": "source_labels"}
        rules = [{snake.get(key, key): v for key, v in r.items()} for r in endpoint.get("metricRelabelings", [])]
        assert rules == jobs[job].get("metric_relabel_configs", [])


def test_kuberay_makes_a_service_of_the_port_that_head_and_workers_serve(manifests: list[Manifest]) -> None:
    """The operator seeks a port of this name at the head, and asks the workers behind it."""
    (application,) = (yaml.safe_load(m["spec"]["serveConfigV2"]) for m in manifests if m["kind"] == "RayService")
    for pod in ray_pods(manifests):
        ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        assert ports["serve"] == application["http_options"]["port"]


def test_only_workers_are_asked_for_what_only_replicas_bring(manifests: list[Manifest]) -> None:
    """The exporter and HAProxy run beside replicas; KubeRay gives the head a port `metrics` where nobody listens."""
    (head,) = (pod for pod in ray_pods(manifests) if "head" in str(pod["metadata"]["labels"]))
    declared = {port["name"] for port in head["spec"]["containers"][0]["ports"]} | {"metrics"}
    for endpoint in one(manifests, "PodMonitor")["spec"]["podMetricsEndpoints"]:
        kept = [rule["regex"] for rule in endpoint["relabelings"] if rule.get("action") == "keep"]
        ready = [rule for rule in endpoint["relabelings"] if rule.get("targetLabel") == "ready"]
        of_replicas = endpoint["port"] != "ray-metrics"
        assert kept == (["worker"] if of_replicas else [])
        assert bool(ready) == of_replicas
        assert of_replicas or endpoint["port"] in declared


def test_a_node_can_be_drained_at_the_fewest_workers(manifests: list[Manifest]) -> None:
    (worker,) = cluster(manifests)["workerGroupSpecs"]
    assert 0 < one(manifests, "PodDisruptionBudget")["spec"]["minAvailable"] < worker["minReplicas"]


def test_an_evicted_worker_is_drained_within_its_grace_period(manifests: list[Manifest]) -> None:
    (worker,) = (pod["spec"] for pod in ray_pods(manifests) if "worker" in str(pod["metadata"]["labels"]))
    *shell, script = worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert shell == ["sh", "-c"]
    command = shlex.split(script.partition("&&")[0])
    assert command[:2] == ["ray", "drain-node"]
    options = drain_node.make_context("drain-node", command[2:]).params
    assert Settings().drain_seconds < options["deadline_remaining_seconds"] < worker["terminationGracePeriodSeconds"]
    (names,) = re.findall("ray::[(](.*?)[)]", script)  # as the kernel cuts them
    assert [f"ray::{name}" for name in names.split("|")] == ["ray::ServeReplica"[:14], "ray::HAProxyManager"[:15]]


def test_the_rules_become_those_of_the_operator(tmp_path: Path) -> None:
    text = (DEPLOY.parent / "docs" / "how-to" / "deploy-on-kubernetes.md").read_text()
    (script,) = re.findall(r"```sh\n(for rules .*?)```", text, re.DOTALL)
    kubectl = f"kubectl() {{ cat >> {tmp_path}/applied; echo --- >> {tmp_path}/applied; }}\n"
    subprocess.run(["sh", "-ec", kubectl + script], check=True, cwd=DEPLOY.parent)
    rules = [rule for rule in yaml.safe_load_all((tmp_path / "applied").read_text()) if rule]
    for rule, file in zip(rules, ("recording.yml", "alerts.yml"), strict=True):
        check(rule, "PrometheusRule", CUSTOM)
        assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / file).read_text())


def test_a_gpu_worker_goes_where_gpus_are() -> None:
    (worker,) = cluster(build("gpu"))["workerGroupSpecs"]
    spec = worker["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert spec["nodeSelector"]
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert {c["image"] for c in (*spec["initContainers"], *spec["containers"])} == {"registry.example/omnitok:cuda"}
