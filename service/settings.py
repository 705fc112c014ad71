"""Every setting of the service, with its default, its unit and its reason; read from `OMNITOK_*` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, SecretStr, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_settings import BaseSettings, SettingsConfigDict

from media.limits import MIB, MediaLimits

# Browsers send scheme, host and port alone; anything more would never match.
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/?#@*\s]+)$")]


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Limits(MediaLimits):
    """The limits of one request. All of it is enforced while reading and decoding, and shown by `GET /limits`."""

    tensor_bytes: int = Field(default=64 * MIB, gt=0, description="body of an array or of tokens, bytes")
    json_bytes: int = Field(default=8 * MIB, gt=0, description="body of a JSON request, bytes")
    body_seconds: float = Field(default=30.0, gt=0, description="time for the whole body to arrive, seconds")
    stream_state_bytes: int = Field(
        default=256 * MIB, gt=0, description="what the network carries from one chunk of a stream to the next, bytes"
    )
    stream_idle_seconds: float = Field(
        default=30.0, gt=0, description="time without a byte of a stream, sent or taken, after which it ends, seconds"
    )
    body_bytes_per_second: float = Field(
        default=16_384,
        gt=0,
        description="slowest body, and in a crowd slowest stream, after five seconds of waiting for it, bytes a second",
    )
    worker_memory_bytes: int = Field(default=2 * 1024 * MIB, gt=0, description="address space of a media worker, bytes")
    tokens: int = Field(default=65_536, gt=0, description="latent positions of one request, all of its items together")
    body_items: int = Field(default=64, gt=0, description="items of one body")
    generated_tokens: int = Field(
        default=65_536, gt=0, description="latent positions of one generate request, all samples together"
    )
    job_tokens: int = Field(default=262_144, gt=0, description="latent positions of one job, all samples together")
    json_tokens: int = Field(default=16_384, gt=0, description="tokens that a JSON answer may hold")


class Settings(BaseSettings):
    """The service's configuration; `OMNITOK_PORT=9000` or `OMNITOK_LIMITS__KEPT_FRAMES=33` changes one value."""

    model_config = SettingsConfigDict(env_prefix="OMNITOK_", env_nested_delimiter="__", frozen=True, extra="forbid")

    bundles: tuple[Path, ...] = Field(
        (Path("bundles/demo-vq"),), description="bundle folders; the first is the default"
    )
    generators: tuple[Path, ...] = Field((), description="generator bundles; the tokenizers they name must be served")
    host: str = Field("127.0.0.1", description="address to listen on; others than loopback need keys")
    port: int = Field(8000, ge=1, le=65535, description="port of the API")
    proxy: Literal["auto", "haproxy", "python"] = Field(
        "auto", description="what takes requests from the network; auto takes HAProxy where its wheel is installed"
    )
    keys: Path | None = Field(
        None, description="file of callers' keys, made by `omnitok keys add`; none asks for no key"
    )
    open_access: bool = Field(
        False, description="serve without keys on any address, where a gateway or a firewall protects the port"
    )
    cors_origins: tuple[Origin, ...] = Field(
        (), description='origins whose pages may call the API from a browser, such as "https://app.example", or "*"'
    )
    metrics_port: int = Field(
        8080, ge=0, le=65535, description="port of each node where Prometheus reads the service's metrics; never public"
    )
    metrics_host: str | None = Field(
        None,
        description="address of these and of HAProxy's metrics; none is that of the API. On loopback all of Ray is too",
    )
    ray_metrics_port: int = Field(
        8090, ge=0, le=65535, description="port where Prometheus reads Ray's own metrics; never public"
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern="^https?://[^/]+/?$",
        description='collector of spans by OTLP over HTTP, such as "http://collector:4318"; needs the extra `otlp`',
    )
    trace_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the traces that begin here which go there; a caller's trace says so itself",
    )
    log: Path | None = Field(
        None, description="pipe or file for the log of requests; none is standard output of `omnitok serve`"
    )
    ingress_replicas: int = Field(2, ge=1, description="two, so that the death of one leaves nobody waiting")
    tokenizer_replicas: int = Field(1, ge=1, description="one per GPU")
    max_tokenizer_replicas: int | None = Field(
        None, ge=1, description="replicas that load may grow the tokenizers to, and back; none keeps their number"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="of the replicas; auto takes a GPU if any")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of the networks")
    warm_sizes: tuple[tuple[int, int, int], ...] = Field(
        ((1, 128, 128), (1, 256, 256), (17, 128, 128)),
        description="frames, height and width that a GPU replica captures before it is ready; others run all the same",
    )
    torch_threads: int = Field(2, ge=1, description="CPU threads of one tokenizer replica")
    media_workers: int = Field(2, ge=1, description="decoding processes of one ingress replica")
    allow_weak_sandbox: bool = Field(
        False,
        description="run media workers without Landlock or seccomp where the kernel lacks them",
    )
    max_batch_tokens: int = Field(32_768, gt=0, description="latent positions of one batch")
    max_batch_requests: int = Field(32, gt=0, description="requests of one batch")
    max_queue_tokens: int = Field(
        1_048_576,
        gt=0,
        description="latent positions waiting in one replica before it refuses; 64 bodies of 16 images of 256x256, "
        "which an H200 encodes in an eighth of a second; of slower ones the seconds bound the queue",
    )
    max_queue_seconds: float = Field(
        2.0, gt=0, description="longest expected wait in one replica's queue before it refuses, by its measured rate"
    )
    generator_replicas: int = Field(
        0,
        ge=0,
        description="one per GPU; 0 runs the generators inside the tokenizer replicas",
    )
    generator_dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="precision of the generators on a GPU; a CPU computes them in float32"
    )
    generator_fp8_cache: bool = Field(False, description="keys and values in 8 bits, for other samples")
    generator_int8_weights: bool = Field(False, description="weights of language models in 8 bits, for other samples")
    generator_slots: int = Field(
        32, ge=2, description="sequences that a replica computes at a time, for each generator; guidance takes two"
    )
    prefill_tokens: int = Field(
        512, ge=1, description="prompt tokens computed between two steps, so that nothing waits longer for a prompt"
    )
    max_queue_samples: int = Field(256, gt=0, description="samples waiting in one replica before it refuses")
    max_inflight_requests: int = Field(224, gt=0, description="requests that one ingress replica works on at a time")
    max_arriving_requests: int = Field(
        512,
        gt=0,
        description="requests whose bodies one ingress replica reads at a time; beyond, the slowest gives way",
    )
    idempotency_bytes: int = Field(
        64 * MIB, ge=0, description="answers kept for requests with an Idempotency-Key, bytes; 0 ignores the header"
    )
    idempotency_seconds: float = Field(3600.0, gt=0, description="how long they are kept, seconds")
    cache_bytes: int = Field(
        0,
        ge=0,
        description="answers of encode, decode and reconstruct that each ingress replica keeps for equal requests of "
        "one caller, bytes; 0 keeps none",
    )
    cache_seconds: float = Field(300.0, gt=0, description="how long they are kept, seconds")
    max_connections: int = Field(
        8192,
        ge=1,
        description="connections that HAProxy serves at a time, fewer where a process may open few files; "
        "requests on others are refused at once",
    )
    client_connections: int = Field(
        512,
        ge=0,
        description="connections of one address, except loopback, that HAProxy accepts; 0 for any number, "
        "as behind a gateway",
    )
    held_body_bytes: int = Field(
        512 * MIB, gt=0, description="bodies that one ingress replica holds at a time, all requests together, bytes"
    )
    max_streams: int = Field(
        4,
        ge=1,
        description="streams that one ingress replica works on at a time; each has a decoder, its state and, of codes, "
        "up to twice tensor_bytes beyond held_body_bytes, and the last place is for a caller that has none",
    )
    stream_chunk_tokens: int = Field(
        8192,
        ge=1,
        description="latent positions of a chunk of a stream, between which others have their turn; the first chunk "
        "has one latent frame more",
    )
    request_seconds: float = Field(60.0, gt=0, description="deadline of one request, seconds")
    generate_seconds: float = Field(
        300.0, gt=0, description="deadline of a generate request, and the longest that it may be predicted to take"
    )
    jobs_folder: Path | None = Field(
        None, description="where jobs and their content are kept; none keeps them while the service runs"
    )
    jobs_redis: SecretStr | None = Field(
        None,
        description='Redis or Valkey that keeps them instead, such as "redis://:password@host:6379/0"; needs the extra '
        "`redis`",
    )
    job_slots: int = Field(2, ge=1, description="jobs that one ingress replica works on at a time")
    job_seconds: float = Field(
        3600.0, gt=0, description="time of one run of a job, and the longest that it may be predicted to take, seconds"
    )
    job_lease_seconds: float = Field(
        15.0, gt=0, description="silence after which the worker of a job counts as lost, seconds"
    )
    job_tries: int = Field(5, ge=1, description="workers that may be lost under one job before it fails")
    job_age_seconds: float = Field(
        86_400.0, gt=0, description="age at which a finished job goes, and one that waits is given up, seconds"
    )
    job_bytes: int = Field(
        4096 * MIB, gt=0, description="content of all jobs, and what came with those that wait, bytes"
    )
    max_jobs: int = Field(1000, gt=0, description="jobs that are kept; the oldest finished ones make way")
    max_caller_jobs: int = Field(100, gt=0, description="unfinished jobs of one caller")
    drain_notice_seconds: float = Field(
        1.0, ge=0, description="from SIGTERM, when readiness falls, to the refusal of new work, seconds"
    )
    drain_seconds: float = Field(
        45.0,
        ge=0,
        description="time that accepted requests have to end after that; supervisors must allow more, seconds",
    )
    tries: int = Field(3, ge=1, description="attempts of an idempotent call when a replica dies under it")
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        least, most = self.tokenizer_replicas, self.max_tokenizer_replicas
        if most is not None and most < least:
            raise ValueError(f"The setting max_tokenizer_replicas={most} must be at least tokenizer_replicas={least}.")
        return self
