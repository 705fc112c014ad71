"""What keeps the service from starting is said in one sentence, before any process is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from cluster_service import free_port

from service.deployment import StartError, build, serve_forever
from service.settings import Settings


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("taken", ["port", "metrics_port"])
def test_a_port_that_is_taken_is_named(bundle: Path, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"port": free_port(), "metrics_port": free_port(), taken: other.getsockname()[1]}
        with pytest.raises(StartError, match=f"cannot listen on port {ports[taken]} of 127.0.0.1"):
            serve_forever(Settings(bundles=(bundle,), **ports))


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    settings = Settings(bundles=(tmp_path / "none",), port=free_port(), metrics_port=free_port())
    with pytest.raises(StartError, match="none is not a bundle"):
        serve_forever(settings)
    with pytest.raises(StartError, match="none is not a bundle"):
        build({"bundles": [str(tmp_path / "none")]})


def test_the_builder_takes_settings_and_nothing_else(bundle: Path) -> None:
    build({"bundles": [str(bundle)], "tokenizer_replicas": 3, "device": "cpu"})
    with pytest.raises(ValueError, match="colour"):
        build({"bundles": [str(bundle)], "colour": "blue"})
