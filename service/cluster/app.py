"""The service on a Ray cluster: what is deployed, and the whole service on this machine."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import ray
from ray import serve
from ray.serve.schema import ApplicationStatus, ReplicaState
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from model.bundle_files import BundleError
from model.compatibility import check_compatible
from service.api import log
from service.api.drain import drain
from service.api.readers import MAX_READERS
from service.cluster.autoscaling import tokenizer_scale
from service.cluster.generators import Generator
from service.cluster.haproxy import wait_until_taken
from service.cluster.jobs import JobOwner
from service.cluster.local import APP_NAME, cluster, end_orphans, private_folder
from service.cluster.log_relay import OptionalConsole, log_relay
from service.cluster.ray_environment import longest_seconds, metrics_host, replica_counts
from service.cluster.replicas import Ingress, Tokenizer
from service.cluster.signals import StoppedError
from service.cluster.start_checks import (
    StartError,
    check_folders,
    check_loopback,
    check_open_files,
    check_python,
)
from service.cluster.start_log import StartLog
from service.cluster.watchdog import LostError, adopt_orphans, leave, local_watchdog
from service.settings import Settings

LOGICAL_CPUS = 0.1  # what a replica reserves; threads and workers are bounded by the settings, not by Ray's accounting
TOKENIZER_REQUESTS = 1024  # above what the queue's own bound in tokens admits of common sizes
ROUTER_REQUESTS = 256  # waiting in one ingress replica for a tokenizer replica to take them
PROBES = 32  # requests without a body that pass an ingress replica which is full
START_SECONDS = 180.0
PORTS, PORTS_SECONDS = ("port", "metrics_port", "ray_metrics_port"), 10.0
LOOK_SECONDS = 0.5  # at the state of replicas, which takes the controller and this process 30 ms
PROBE_SECONDS = 0.1
OWNER_SHUTDOWN_SECONDS = 5.0  # the next owner of the jobs waits for the lock of this one
OWNER_STARTS = 20  # on a busy machine too
OTLP_MODULE = "opentelemetry.exporter.otlp.proto.http"
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
LOST_STATUS = 70  # EX_SOFTWARE, so that a supervisor tells it from a refusal to start


def application(settings: Settings, folder: Path | None = None) -> serve.Application:
    """Return both tiers, ready to be deployed on a Ray cluster.

    Args:
        settings: replicas, limits and deadlines.
        folder: where a process of this machine asks the ingress replicas to drain; see `drain`.

    Raises:
        StartError: a bundle folder is missing, or a package that a setting needs, or a URL is not one.
    """
    settings = _find_bundles(settings)
    _check_packages(settings)
    if (jobs_folder := settings.jobs_folder or (folder and folder / "jobs")) is not None:
        settings = settings.model_copy(update={"jobs_folder": jobs_folder.resolve()})  # replicas may run elsewhere
    common: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": LOGICAL_CPUS},
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": longest_seconds(settings),
        "max_constructor_retry_count": 2,
        "logging_config": {"enable_access_log": False},  # what `serve.start` is given reaches no replica
    }
    computing = common | {
        "ray_actor_options": {"num_cpus": LOGICAL_CPUS, "num_gpus": min(_gpus_wanted(settings), 1)},
        "max_ongoing_requests": TOKENIZER_REQUESTS,
        "max_queued_requests": ROUTER_REQUESTS,
    }
    tokenizer = serve.deployment(**tokenizer_scale(settings), **computing)(Tokenizer)
    ingress = serve.deployment(
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=settings.max_inflight_requests + settings.max_arriving_requests + MAX_READERS + PROBES,
        **common,
    )(serve.ingress()(Ingress))
    tokenizers = tokenizer.bind(settings)
    if not settings.generators:
        return ingress.bind(tokenizers, settings, None, folder)
    jobs = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=TOKENIZER_REQUESTS,
        **common | {"graceful_shutdown_timeout_s": OWNER_SHUTDOWN_SECONDS, "max_constructor_retry_count": OWNER_STARTS},
    )(JobOwner).bind(settings)
    if not settings.generator_replicas:
        return ingress.bind(tokenizers, settings, tokenizers, folder, jobs)
    generator = serve.deployment(num_replicas=settings.generator_replicas, **computing)(Generator)
    return ingress.bind(tokenizers, settings, generator.bind(settings), folder, jobs)


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application as `serve deploy` and `serve run` want it.

    Args:
        args: fields of `Settings`; what is missing comes from `OMNITOK_*` variables.
    """
    return application(Settings(**args))


def deploy(settings: Settings, folder: Path | None = None, start: StartLog | None = None) -> None:
    """Put the application on the running cluster and wait until it answers.

    Args:
        settings: of the service.
        folder: where the ingress replicas look for the sign to drain.
        start: where to log how many replicas are ready.

    Raises:
        StartError: a replica cannot start; the message holds Ray's reason.
    """
    if _gpus_wanted(settings) > _gpus_there():  # Ray would wait for more of them to turn up
        wanted = "replicas of tokenizers and generators" if settings.generators else "tokenizer replicas"
        raise StartError(
            f"{_gpus_wanted(settings)} {wanted} need a GPU each, and there are {_gpus_there()}: use fewer, or the CPU."
        )
    target = serve.RunTarget(application(settings, folder), name=APP_NAME, route_prefix="/")
    try:
        serve.run_many([target], wait_for_applications_running=False)
    except RuntimeError as error:
        raise StartError(f"The service cannot start: {_reason() or error}") from error
    _wait_for_replicas(settings, start)
    ready = f"{_url(settings.host, settings.port)}/health/ready"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(ready, timeout=10, trust_env=False).status_code == 200:  # no proxy lies between
                return
        time.sleep(PROBE_SECONDS)
    raise StartError(f"{ready} did not answer 200 within {START_SECONDS:.0f} s.")


def _wait_for_replicas(settings: Settings, start: StartLog | None) -> None:
    """Wait until all replicas run, which Ray Serve's own call would notice up to a second later."""
    wanted, seen = replica_counts(settings), dict[str, int]()
    while True:
        app = serve.status().applications[APP_NAME]
        ready = {name: found.replica_states.get(ReplicaState.RUNNING, 0) for name, found in app.deployments.items()}
        if start is not None and ready != seen and any(ready.values()):
            start.reached("replicas", ready=ready, wanted=wanted)
        if app.status == ApplicationStatus.RUNNING:
            return
        if app.status == ApplicationStatus.DEPLOY_FAILED:
            raise StartError(f"The service cannot start: {_reason() or app.message}")
        seen = ready
        time.sleep(LOOK_SECONDS)


def serve_forever(settings: Settings, start: StartLog | None = None) -> None:
    """Run the whole service on this machine until Ctrl-C or SIGTERM, and then answer what is in flight.

    A second signal stops without waiting. When a part of the cluster is gone for good, the process says so and exits.

    Args:
        settings: of the service.
        start: the log of the start; a new one if None.

    Raises:
        StartError: a port is taken, a bundle is missing or damaged, or a replica cannot start.
    """
    console, start = OptionalConsole(soft_wrap=True, highlight=False), start or StartLog()
    settings = _find_bundles(settings)
    check_python()
    check_loopback()
    check_folders()
    check_open_files(settings)
    _wait_for_ports(settings)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    adopt_orphans()
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        folder = stack.enter_context(private_folder())
        if settings.log is None:
            settings = settings.model_copy(update={"log": stack.enter_context(log_relay(folder))})
        log.configure(settings.log)
        console.print("starting")  # the first line of the log comes when Ray runs, up to half a minute later
        watchdog = local_watchdog(settings.host, settings.port)
        try:
            with _bundle_check(settings) as check_bundles, watchdog.during_start(lambda lost: _abandon(lost, folder)):
                try:
                    logs = stack.enter_context(cluster(settings, folder=folder))
                except Exception as error:  # Ray has no type of its own for it
                    raise StartError(f"Ray cannot start: {error}") from error
                start.reached("cluster")
                check_bundles()
                start.reached("bundles")
                deploy(settings, folder, start)
        except StoppedError:  # nobody watches any more: what follows kills Ray's processes
            console.print("stopped")
            leave(folder, 0)
        start.reached("ready")
        url, metrics = _url(settings.host, settings.port), _url(metrics_host(settings), settings.metrics_port)
        console.print(
            f"[bold green]ready on {escape(url)}[/] after {start.seconds:.0f} s  {_devices(settings)}  documentation "
            f"{escape(url)}/docs  metrics {escape(metrics)}/metrics  Ray's logs {escape(str(logs))}"
        )
        try:
            local_watchdog(settings.host, settings.port).watch()
        except LostError as error:
            _abandon(error, folder)
        except KeyboardInterrupt:
            console.print("draining")
            deadline = time.monotonic() + settings.drain_notice_seconds + settings.drain_seconds
            drained = drain(folder, deadline - time.monotonic())
            if not (drained and wait_until_taken(folder, deadline - time.monotonic())):
                console.print(f"some requests did not end within {settings.drain_seconds:g} s", style="yellow")
    console.print("stopped")


def _abandon(error: LostError, folder: Path) -> NoReturn:
    """Say why the service ends, and end it; Ray's own shutdown would wait for what is gone."""
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), str(error)))
    leave(folder, LOST_STATUS)


def _check_packages(settings: Settings) -> None:
    """Check that the packages are there which settings need."""
    if settings.otlp_endpoint is not None and importlib.util.find_spec(OTLP_MODULE) is None:
        raise StartError(
            "OMNITOK_OTLP_ENDPOINT needs OpenTelemetry's exporter. Run pip install -e '.[otlp]' in a checkout."
        )
    if settings.jobs_redis is not None:
        if importlib.util.find_spec("redis") is None:
            raise StartError("OMNITOK_JOBS_REDIS needs a client of Redis. Run pip install -e '.[redis]' in a checkout.")
        if not settings.jobs_redis.get_secret_value().startswith(REDIS_SCHEMES):  # it may hold a password
            raise StartError(f"OMNITOK_JOBS_REDIS must be a URL that begins with {', '.join(REDIS_SCHEMES)}.")


def _find_bundles(settings: Settings) -> Settings:
    found = {}
    for name in ("bundles", "generators"):
        found[name] = tuple(path.resolve() for path in getattr(settings, name))  # replicas may run elsewhere
    try:
        check_compatible(found["generators"], found["bundles"])
    except BundleError as error:
        raise StartError(str(error)) from error
    return settings.model_copy(update=found)


@contextlib.contextmanager
def _bundle_check(settings: Settings) -> Iterator[Callable[[], None]]:
    """Load each bundle once, in another process: Ray takes long to give up replicas that cannot start.

    Yield a function that waits for the end of it and raises `StartError` for a bundle that is not usable.
    """
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from model.bundle import BundleError, load_bundle, load_generator\n"
        "count, *paths = int(sys.argv[1]), *map(Path, sys.argv[2:])\n"
        "try:\n"
        "    for path in paths[:count]: load_bundle(path)\n"
        "    for path in paths[count:]: load_generator(path)\n"
        "except BundleError as error: sys.exit(str(error))"
    )
    paths = map(str, (*settings.bundles, *settings.generators))
    command = [sys.executable, "-c", code, str(len(settings.bundles)), *paths]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:

        def wait() -> None:
            _, errors = process.communicate()
            if process.returncode == -signal.SIGKILL:
                cause = "the kernel killed the check of the bundles, as it does where memory is short"
                raise StartError(f"The service cannot start: {cause}. Allow more of it.")
            if process.returncode != 0:
                reason = (errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
                raise StartError(f"The service cannot start: {reason}")

        try:
            yield wait
        finally:
            process.kill()


def _reason() -> str:
    """Return the first message of a deployment that failed, its last line only."""
    for app in serve.status().applications.values():
        for deployment in app.deployments.values():
            lines = deployment.message.strip().splitlines()
            if "UNHEALTHY" in deployment.status or "FAILED" in deployment.status:
                return lines[-1] if lines else ""
    return ""


def _wait_for_ports(settings: Settings) -> None:
    """Wait until the ports are free that a killed service held; refuse at once those that another program holds."""
    deadline, orphans = time.monotonic() + PORTS_SECONDS, False
    while True:
        orphans = end_orphans() or orphans
        taken = [name for name in PORTS if not _is_free(settings.host, getattr(settings, name))]
        if not taken:
            return
        if not orphans or time.monotonic() > deadline:
            ports = " and ".join(f"{getattr(settings, name)} (OMNITOK_{name.upper()})" for name in taken)
            detail = (
                f"The service cannot listen on {settings.host} at {ports}: another program does. Choose free ports."
            )
            raise StartError(detail)
        time.sleep(LOOK_SECONDS)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise StartError(f"The service cannot listen on port {port} of {host}: {error.strerror}.") from error
    return True


def _gpus_wanted(settings: Settings) -> int:
    use = settings.device == "cuda" or (settings.device == "auto" and _gpus_there() > 0)
    replicas = settings.tokenizer_replicas + (settings.generator_replicas if settings.generators else 0)
    return replicas if use else 0


def _devices(settings: Settings) -> str:
    """Return what the replicas compute on, for the person at the terminal."""
    if gpus := _gpus_wanted(settings):
        return f"GPUs: {gpus}"
    return "on the CPU" if settings.device == "cpu" else "on the CPU, since no GPU was found"


def _gpus_there() -> int:
    return int(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else 0
