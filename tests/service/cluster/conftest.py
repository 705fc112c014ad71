"""One real cluster for all tests here: two replicas of each tier, a tiny bundle and a tiny generator."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "api")]
sys.path += [str(Path(__file__).parents[2] / "deploy"), str(Path(__file__).parents[3])]

from bad_inputs import LIMITS
from cluster_service import Service

from benchmarks.service.process import free_port
from model.bundle import save_bundle, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.settings import Settings


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from service.cluster.app import deploy
    from service.cluster.local import cluster

    torch.manual_seed(0)
    bundle = tmp_path_factory.mktemp("bundles") / "tiny"
    code = save_bundle(bundle, OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    generator = bundle.with_name("tiny-lm")
    network = make_generator(GENERATOR_CONFIGS["lm-debug"]).eval()
    save_generator(generator, network, "Random weights for tests.", code, classes=("ant", "bee", "cow", "dog"))
    settings = Settings(
        bundles=(bundle,),
        generators=(generator,),
        port=free_port(),
        metrics_port=free_port(),
        ray_metrics_port=free_port(),
        tokenizer_replicas=2,
        media_workers=2,
        torch_threads=1,
        max_queue_seconds=1000.0,  # a busy machine refuses nothing
        generator_slots=8,  # so that samples wait, and callers can leave before the last
        stream_chunk_tokens=128,
        limits=replace(LIMITS, body_seconds=30.0),  # which crowds on a busy machine need
        jobs_folder=bundle.parent / "jobs",
        job_lease_seconds=5.0,
    )
    with cluster(settings, object_bytes=80 * 2**20):
        deploy(settings)
        yield Service(settings, bundle)


@pytest.fixture(scope="package")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client
