"""`python -m benchmarks.chaos.pods`: the pods of deploy/kuberay under load; one is evicted, and the head is killed.

A Docker engine takes the place of Kubernetes: every pod is a container with the image, variables, user, mounts and
`preStop` of the manifests, started by the command that KubeRay makes of `rayStartParams`. A Redis server keeps the
head's memory. This tries those texts, and nothing of KubeRay, its autoscaler or the network policies.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml

from benchmarks.chaos.callers import Callers
from benchmarks.chaos.kube_proxy import KubeProxy
from benchmarks.chaos.report import report, watch_each
from service.client.calls import API_KEY_VARIABLE
from service.keys import new_key, write_keys

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
MANIFESTS = Path(__file__).parents[2] / "deploy" / "kuberay" / "base"
PORT, DASHBOARD_PORT = 8000, 8265
SUBNET, GATEWAY = "172.29.19.0/24", "172.29.19.1"
WAIT_SECONDS = 600.0  # on a machine without spare cores
KILL_TOKENIZER = "kill -9 $(grep -ls ServeReplica:omnitok:Tokenizer /proc/[0-9]*/cmdline | head -1 | cut -d/ -f3)"


def docker(*arguments: str, check: bool = True) -> str:
    """Run a command of Docker and return what it printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout.strip()


def wait(what: str, is_true: Callable[[], bool]) -> None:
    """Return once something is true.

    Raises:
        TimeoutError: it is not within some minutes.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            if is_true():
                return
        except (httpx.HTTPError, KeyError):
            pass
        time.sleep(1.0)
    raise TimeoutError(f"{what} within {WAIT_SECONDS:.0f} s: not so.")


@dataclass
class Pods:
    """The containers of a RayService.

    Args:
        manifests: as kustomize builds them.
        keys: folder with the file of keys.
        proxy: gives ready workers connections.
    """

    manifests: list[dict[str, Any]]
    keys: Path
    proxy: KubeProxy
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    addresses: dict[str, str] = field(default_factory=dict)  # by name of the container

    def start(self, name: str, template: dict[str, Any], parameters: dict[str, str], *options: str) -> None:
        """Run the Ray container of a pod.

        Args:
            name: of the container.
            template: of the pod.
            parameters: of `ray start`.
            options: further ones of it.
        """
        (container,) = template["spec"]["containers"]
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        security = template["spec"]["securityContext"]
        command = ["run", "--detach", "--name", name, "--network", "omnitok-pods", "--entrypoint", "/bin/bash"]
        command += ["--network-alias", "omnitok-head"] if "--head" in options else []
        command += [f"--add-host=omnitok-redis:{GATEWAY}", f"--user={security['runAsUser']}:{security['runAsGroup']}"]
        command += ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        command += [f"--memory={_docker_bytes(container['resources']['limits']['memory'])}"]
        for mount in container["volumeMounts"]:
            path, volume = mount["mountPath"], volumes[mount["name"]]
            if "secret" in volume:
                command += [f"--volume={self.keys}:{path}:ro"]
            elif path == "/dev/shm":
                command += [f"--shm-size={_docker_bytes(volume['emptyDir']['sizeLimit'])}"]
            else:
                size = _docker_bytes(volume["emptyDir"]["sizeLimit"])
                command += [f"--tmpfs={path}:mode=1777,exec,size={size}"]
        for variable, value in (self._variables(container) | self._of_kuberay("--head" in options)).items():
            command += ["--env", f"{variable}={value}"]
        flags = " ".join((*options, *(f"--{key}={value}" for key, value in parameters.items()), "--block"))
        docker(*command, container["image"], "-lc", f"ulimit -n 65536; ray start {flags}")
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        self.addresses[name] = docker("inspect", "--format", form, name)

    def start_head(self, name: str) -> None:
        """Run the head and wait for its dashboard, through which applications are deployed."""
        group = self._cluster()["headGroupSpec"]
        parameters = group["rayStartParams"] | {"dashboard-agent-listen-port": "52365", "redis-password": self.password}
        self.start(name, group["template"], parameters, "--head")
        self._head = name
        wait("The head is healthy", lambda: httpx.get(self._dashboard("/api/gcs_healthz")).status_code == 200)

    def start_worker(self, name: str) -> None:
        """Run a worker, which gets connections once it is ready."""
        (group,) = self._cluster()["workerGroupSpecs"]
        self.start(name, group["template"], group["rayStartParams"], "--address=omnitok-head:6379")
        self.proxy.add(self.addresses[name])

    def deploy(self) -> None:
        """Deploy `serveConfigV2` as the operator does, and wait until it runs."""
        config = yaml.safe_load(self._one("RayService")["spec"]["serveConfigV2"])
        answer = httpx.put(
            self._dashboard("/api/serve/applications/"), json=config, headers=self._headers(), timeout=60
        )
        answer.raise_for_status()
        self.wait_running()

    def wait_running(self) -> None:
        """Wait until all deployments are healthy and have the replicas that they want."""
        wait("All deployments are healthy", self._is_running)

    def evict(self, name: str) -> None:
        """Do what a node's kubelet does: no new connections, `preStop`, SIGTERM, and SIGKILL after the grace period."""
        (group,) = self._cluster()["workerGroupSpecs"]
        spec = group["template"]["spec"]
        deadline = time.monotonic() + spec["terminationGracePeriodSeconds"]
        self.proxy.remove(self.addresses[name])
        command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        begun = time.monotonic()
        done = subprocess.run(["docker", "exec", name, *command], capture_output=True, text=True)
        print(
            f"preStop: status {done.returncode} after {time.monotonic() - begun:.1f} s {done.stderr[-300:]}", flush=True
        )
        docker("stop", f"--time={max(1, round(deadline - time.monotonic()))}", name)
        print(f"{name} ended with {docker('inspect', '--format', '{{.State.ExitCode}}', name)}", flush=True)

    def lose_head(self, name: str, seconds: float) -> None:
        """Kill the head, and after some seconds start another one, which finds its memory in Redis."""
        docker("kill", self._head)
        docker("rm", self._head)
        time.sleep(seconds)
        begun = time.monotonic()
        self.start_head(name)
        print(f"the new head answers after {time.monotonic() - begun:.1f} s", flush=True)
        self.wait_running()

    def kill_tokenizer(self, name: str) -> None:
        """Kill a tokenizer replica of a worker and wait for another."""
        docker("exec", name, "sh", "-c", KILL_TOKENIZER)
        wait("A replica is missed", lambda: not self._is_running())
        self.wait_running()

    def close(self) -> None:
        """Remove all containers."""
        for name in self.addresses:
            docker("rm", "--force", name, check=False)

    def logs(self) -> str:
        """Return the ends of the containers' logs."""
        return "\n".join(f"--- {name}\n{docker('logs', '--tail', '15', name, check=False)}" for name in self.addresses)

    def _is_running(self) -> bool:
        answer = httpx.get(self._dashboard("/api/serve/applications/"), headers=self._headers(), timeout=20)
        application = answer.raise_for_status().json()["applications"]["omnitok"]
        deployments = application["deployments"].values()
        return application["status"] == "RUNNING" and all(
            deployment["status"] == "HEALTHY"
            and sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])
            == len(deployment["replicas"])
            == deployment["target_num_replicas"]
            for deployment in deployments
        )

    def _dashboard(self, path: str) -> str:
        return f"http://{self.addresses[self._head]}:{DASHBOARD_PORT}{path}"

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _cluster(self) -> dict[str, Any]:
        config: dict[str, Any] = self._one("RayService")["spec"]["rayClusterConfig"]
        return config

    def _one(self, kind: str) -> dict[str, Any]:
        (found,) = (manifest for manifest in self.manifests if manifest["kind"] == kind)
        return found

    def _variables(self, container: dict[str, Any]) -> dict[str, str]:
        maps = {m["metadata"]["name"]: m["data"] for m in self.manifests if m["kind"] == "ConfigMap"}
        variables: dict[str, str] = {}
        for source in container["envFrom"]:
            variables |= maps[source["configMapRef"]["name"]]
        return variables

    def _of_kuberay(self, is_head: bool) -> dict[str, str]:
        """Return the variables that the operator adds."""
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "REDIS_PASSWORD": self.password}
        if is_head:
            address = self._cluster()["gcsFaultToleranceOptions"]["redisAddress"]
            return variables | {"RAY_REDIS_ADDRESS": address, "RAY_ADDRESS": "127.0.0.1:6379"}
        return variables | {"RAY_ADDRESS": "omnitok-head:6379", "RAY_gcs_rpc_server_reconnect_timeout_s": "600"}


def _docker_bytes(quantity: str) -> str:
    return quantity.removesuffix("i").lower()


@app.command()
def main(
    redis: Annotated[Path, typer.Option(help="redis-server or valkey-server.")],
    callers: Annotated[int, typer.Option(help="Calls at a time.")] = 3,
    retries: Annotated[int | None, typer.Option(help="Of each call; the client's own number by default.")] = None,
    pause: Annotated[float, typer.Option(help="Seconds between the calls of a caller.")] = 0.2,
    quiet: Annotated[float, typer.Option(help="Seconds of load after each event.")] = 10.0,
    headless: Annotated[float, typer.Option(help="Seconds until a killed head is started again.")] = 10.0,
    port: Annotated[int, typer.Option(help="Of the API on this machine.")] = 8390,
) -> None:
    """Start the pods, let everything happen once and print a table; the status is 1 if a call failed."""
    kubectl = str(Path(sys.executable).parent / "kubectl")
    built = subprocess.run([kubectl, "kustomize", str(MANIFESTS)], capture_output=True, text=True, check=True).stdout
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="pods-")))
        secret, key = new_key("chaos", ("encode", "decode"))
        write_keys(folder / "keys.json", [key])
        folder.chmod(0o755)
        (folder / "keys.json").chmod(0o644)
        os.environ[API_KEY_VARIABLE] = secret
        docker("network", "create", "--subnet", SUBNET, "--gateway", GATEWAY, "omnitok-pods")
        cleanup.callback(docker, "network", "rm", "omnitok-pods")
        proxy = KubeProxy(port, PORT)
        cleanup.callback(proxy.close)
        pods = Pods(list(yaml.safe_load_all(built)), folder, proxy)
        options = f"appendonly yes\nbind {GATEWAY}\ndir {folder}\nrequirepass {pods.password}\n"
        memory = subprocess.Popen([redis, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        cleanup.callback(memory.wait)
        cleanup.callback(memory.terminate)
        assert memory.stdin is not None
        memory.stdin.write(options)
        memory.stdin.close()
        cleanup.callback(pods.close)
        try:
            begun = time.monotonic()
            pods.start_head("head-1")
            pods.start_worker("worker-1")
            pods.start_worker("worker-2")
            pods.deploy()
            wait("Both workers are ready", lambda: len(proxy.ready()) == 2)
            print(f"ready after {time.monotonic() - begun:.0f} s", flush=True)

            def evict() -> None:
                pods.start_worker("worker-3")  # as an autoscaler does, for the replicas that want a place
                pods.evict("worker-1")
                pods.wait_running()

            events: dict[str, Callable[[], None]] = {
                "eviction of a worker, and another": evict,
                f"SIGKILL of the head, and another {headless:.0f} s later": lambda: pods.lose_head("head-2", headless),
                "then SIGKILL of a tokenizer replica": lambda: pods.kill_tokenizer("worker-2"),
            }
            with Callers(proxy.url, callers, retries, pause, with_samples=False) as load:
                time.sleep(quiet)
                rows = watch_each(events, load, quiet)
        except Exception:
            print(pods.logs())
            raise
    report(rows, load.calls)


if __name__ == "__main__":
    app()
