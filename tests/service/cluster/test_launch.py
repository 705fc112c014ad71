"""Errors at start-up take one sentence, before anything is deployed."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from benchmarks.service.process import free_port
from model.bundle import read_config, save_bundle, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS, VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from service.cluster import app
from service.cluster.app import build, serve_forever
from service.cluster.start_checks import StartError
from service.settings import Settings


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "debug"
    save_bundle(path, OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    return path


@pytest.mark.parametrize("taken", [("port",), ("metrics_port", "ray_metrics_port")])
def test_ports_that_are_taken_are_named_at_once(
    bundle: Path, taken: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PORTS_SECONDS", 600.0)
    monkeypatch.setattr(app, "end_orphans", lambda: False)
    ports = {name: free_port() for name in ("port", "metrics_port", "ray_metrics_port")}
    with ExitStack() as stack:
        for name in taken:
            ports[name] = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        named = " and ".join(rf"{ports[name]} \(OMNITOK_{name.upper()}\)" for name in taken)
        with pytest.raises(StartError, match=rf"^The service cannot listen on 127\.0\.0\.1 at {named}: another"):
            serve_forever(Settings(bundles=(bundle,), **ports))


def test_an_address_of_another_machine_is_refused_at_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PORTS_SECONDS", 600.0)
    with pytest.raises(StartError, match=r"^The service cannot listen on port \d+ of 192\.0\.2\.1: .*assign"):
        serve_forever(Settings(bundles=(bundle,), host="192.0.2.1", open_access=True))


def test_a_port_that_a_killed_service_still_holds_is_waited_for(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    looks = iter((True, False))

    def look() -> bool:
        found = next(looks)
        if not found:  # the process that was ended has gone
            other.close()
        return found

    monkeypatch.setattr(app, "PORTS_SECONDS", 600.0)
    monkeypatch.setattr(app, "end_orphans", look)

    def begin() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "private_folder", begin)
    port = other.getsockname()[1]
    serve_forever(Settings(bundles=(bundle,), port=port, metrics_port=free_port(), ray_metrics_port=free_port()))
    assert next(looks, None) is None


def test_what_ray_cannot_do_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cluster(*_: Any, **__: Any) -> NoReturn:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(app, "cluster", cluster)
    with pytest.raises(StartError, match=r"^Ray cannot start: The current node timed out during startup\.$"):
        serve_forever(
            Settings(bundles=(bundle,), port=free_port(), metrics_port=free_port(), ray_metrics_port=free_port())
        )


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    settings = Settings(
        bundles=(tmp_path / "none",), port=free_port(), metrics_port=free_port(), ray_metrics_port=free_port()
    )
    with pytest.raises(StartError, match="none is not a bundle: there is no such folder"):
        serve_forever(settings)
    with pytest.raises(StartError, match="none is not a bundle: there is no such folder"):
        build({"bundles": [str(tmp_path / "none")]})


def test_a_bundle_of_the_other_kind_is_refused_before_anything_starts(bundle: Path) -> None:
    with pytest.raises(StartError, match="name a generator bundle"):
        build({"bundles": [str(bundle)], "generators": [str(bundle)]})


def test_an_address_of_redis_without_its_scheme_is_refused_and_not_shown() -> None:
    with pytest.raises(StartError, match="OMNITOK_JOBS_REDIS must be a URL") as refusal:
        build({"jobs_redis": ":secret@host:6379"})
    assert "secret" not in str(refusal.value)


@pytest.fixture
def not_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "cluster", lambda settings, folder: nullcontext(folder))
    monkeypatch.setattr(app, "deploy", lambda *arguments: pytest.fail("It was deployed."))
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)


@pytest.mark.usefixtures("not_deployed")
def test_a_damaged_bundle_is_named_and_not_deployed(tmp_path: Path) -> None:
    bundle = tmp_path / "tiny"
    save_bundle(bundle, OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    weights = bytearray((bundle / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (bundle / "model.safetensors").write_bytes(weights)
    settings = Settings(bundles=(bundle,), port=free_port(), metrics_port=free_port(), ray_metrics_port=free_port())
    with pytest.raises(StartError, match=r"model\.safetensors is damaged"):
        serve_forever(settings)


@pytest.mark.usefixtures("not_deployed")
def test_a_check_of_bundles_that_the_kernel_kills_is_told_from_a_damaged_one(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    settings = Settings(bundles=(bundle,), port=free_port(), metrics_port=free_port(), ray_metrics_port=free_port())
    with pytest.raises(StartError, match="memory is short"):
        serve_forever(settings)


@pytest.mark.usefixtures("not_deployed")
def test_a_generator_that_does_not_fit_is_named_and_not_deployed(tmp_path: Path) -> None:
    tokenizer = OmniTokenizer(replace(CONFIGS["debug"], head=VQConfig(codes=32, dim=8))).eval()
    speaks = save_bundle(tmp_path / "tiny", tokenizer, card="Random weights for tests.")
    names = ("ant", "bee", "cow", "dog")
    save_generator(tmp_path / "lm", make_generator(GENERATOR_CONFIGS["lm-debug"]).eval(), "Random.", speaks, names)
    bundles: Any = {"bundles": (tmp_path / "tiny",), "generators": (tmp_path / "lm",)}
    with pytest.raises(StartError, match=r"lm makes 64 codes, and its tokenizer .*tiny has 32 codes\."):
        serve_forever(Settings(**bundles, port=free_port(), metrics_port=free_port(), ray_metrics_port=free_port()))


def test_the_builder_takes_settings_and_nothing_else(bundle: Path) -> None:
    build({"bundles": [str(bundle)], "tokenizer_replicas": 3, "device": "cpu"})
    with pytest.raises(ValueError, match="colour"):
        build({"bundles": [str(bundle)], "colour": "blue"})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ray_is_asked_for_what_the_settings_say(bundle: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, dict[str, Any]] = {}

    def deployment(**options: Any) -> Any:
        def named(cls: type) -> Any:
            asked[cls.__name__] = options
            return SimpleNamespace(bind=lambda *arguments: arguments)

        return named

    monkeypatch.setattr(app.serve, "deployment", deployment)
    settings = {"tokenizer_replicas": 3, "ingress_replicas": 4, "request_seconds": 7.0, "device": device}
    tokenizer, *_ = build({"bundles": [str(bundle)], **settings})
    assert tokenizer[0].device == device
    assert tokenizer[0].bundles == (bundle.resolve(),)
    assert (asked["Tokenizer"]["num_replicas"], asked["Ingress"]["num_replicas"]) == (3, 4)
    assert asked["Tokenizer"]["ray_actor_options"]["num_gpus"] == (device == "cuda")
    assert "num_gpus" not in asked["Ingress"]["ray_actor_options"]
    for options in asked.values():  # a request that has begun is answered before its replica goes
        assert options["graceful_shutdown_timeout_s"] == 7.0
        assert options["ray_actor_options"]["num_cpus"] < 1


@pytest.mark.parametrize(("replicas", "gpus"), [(0, 3), (2, 5)])
def test_generators_have_replicas_of_their_own_or_the_tokenizers(
    bundle: Path, replicas: int, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, network = bundle.with_name("lm"), make_generator(GENERATOR_CONFIGS["lm-debug"]).eval()
    save_generator(generator, network, "Random.", read_config(bundle).hash, ("ant", "bee", "cow", "dog"))
    named = {"bundles": [str(bundle)], "generators": [str(generator)], "device": "cuda"}
    settings = Settings(**named, tokenizer_replicas=3, generator_replicas=replicas)
    bound = app.application(settings)
    found = {deployment.name for deployment in _deployments(bound)}
    assert found == {"Ingress", "JobOwner", "Tokenizer"} | ({"Generator"} if replicas else set())
    with pytest.raises(StartError, match=f"{gpus} replicas of tokenizers and generators need a GPU each"):
        app.deploy(settings)
    with pytest.raises(StartError, match="not a bundle"):
        build({"bundles": [str(bundle)], "generators": [str(bundle / "missing")]})


def _deployments(application: Any) -> list[Any]:
    return [
        application._bound_deployment,
        *(
            part._bound_deployment
            for part in application._bound_deployment.init_args
            if hasattr(part, "_bound_deployment")
        ),
    ]
