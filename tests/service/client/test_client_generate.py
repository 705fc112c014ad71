"""Generation through both clients on the real HTTP tier."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from api_media import clip, scene
from api_server import VQ, Server
from PIL import Image
from toy_generators import CLASSES
from waiting import eventually

from service.client import AsyncClient, Client, GenerateEvent, GenerateOptions, ServiceError, read_arrays
from service.formats.validation import public_names
from service.operations import options_generate


def test_a_class_becomes_arrays(client: Client, server: Server) -> None:
    made = client.generate("red fox", n=2, seed=3, output="both")
    assert (made.meta.model, made.meta.class_name, made.meta.seed) == ("toy-lm", "red fox", 3)
    assert [sample.pixels.shape for sample in made.samples if sample.pixels is not None] == [(1, 32, 32, 3)] * 2
    packed = httpx.post(
        f"{server.url}/generate?class=1&n=2&seed=3&output=both", headers={"Accept": "application/msgpack"}
    )
    for ours, theirs in zip(made.samples, read_arrays(packed.content).samples, strict=True):
        assert ours.codes is not None
        assert theirs.codes is not None
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        np.testing.assert_array_equal(ours.codes.tokens, theirs.codes.tokens)
        np.testing.assert_array_equal(client.decode(ours.codes), ours.pixels)


def test_what_it_gives_is_printed_in_a_line(client: Client) -> None:
    made = client.generate("red fox", n=2, seed=3, output="both")
    assert repr(made) == "<Samples of toy-lm: 2 of class 1 (red fox), seed 3, 1x32x32>"
    codes = f"<EncodeResult of {VQ.id}: tokens uint16 of shape (1, 4, 4)>"
    assert repr(made.samples[0]) == f"<SampleArrays: pixels of shape (1, 32, 32, 3), {codes}>"
    events = list(client.generate_events("red fox", accept="image/png"))
    (result,) = (event for event in events if event.name == "result")
    assert f"pixels: {len(result.files['pixels'][1])} bytes of image/png>" in repr(result)
    assert max(len(repr(event)) for event in events) < 1500
    assert len(repr(client.submit("red fox"))) < 200


@pytest.mark.parametrize("output", ["pixels", "tokens"])
def test_one_form_of_a_sample_is_enough(client: Client, output: Any) -> None:
    (sample,) = client.generate(0, output=output).samples
    assert (sample.pixels is None, sample.codes is None) == (output == "tokens", output == "pixels")


def test_a_class_becomes_files(client: Client) -> None:
    files = client.generate(1, n=2, accept="image/webp", quality=80)
    assert [Image.open(io.BytesIO(file)).format for file in files] == ["WEBP"] * 2
    (video,) = client.generate(1, frames=5, accept="video/mp4", fps=8)
    assert b"ftyp" in video[:16]


PREFIXES: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "bytes": Path.read_bytes,
    "open file": lambda path: path.open("rb"),
    "array": lambda path: scene(5, 32, 32),
}


@pytest.mark.parametrize("form", PREFIXES)
def test_any_form_of_a_clip_is_continued(client: Client, server: Server, tmp_path: Path, form: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip())
    made = client.generate(0, prefix=PREFIXES[form](path), frames=9, prefix_frames=5)
    assert made.meta.prefix_frames == 5
    assert server.generators.jobs[-1].prompt is not None


def test_samples_are_continued(client: Client, server: Server) -> None:
    (first,) = client.generate(0, frames=5, output="tokens").samples
    assert first.codes is not None
    (longer,) = client.generate(0, frames=9, prefix=first.codes, output="tokens").samples
    assert longer.codes is not None
    np.testing.assert_array_equal(longer.codes.tokens[:2], first.codes.tokens)


def test_classes_and_generators(client: Client) -> None:
    assert client.classes() == dict(enumerate(CLASSES))
    assert client.classes("fox") == {1: "red fox", 2: "grey fox"}
    cards = client.generators()
    assert [card.id for card in cards] == ["toy-lm", "toy-dit", "toy-lost"]
    assert (cards[0].tokenizer, cards[2].tokenizer, cards[0].class_count) == (VQ.id, None, 4)
    assert cards[0].defaults.guidance == 2.0
    assert client.models()[0].id == VQ.id


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"class_": "none"}, "unknown-class"),
        ({"class_": 0, "temperature": -1}, "invalid-options"),
        ({"class_": 0, "temperature": float("nan")}, "invalid-options"),
        ({"class_": 0, "model": "toy-lost"}, "tokenizer-not-served"),
    ],
)
def test_a_refusal_is_an_error(client: Client, arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(ServiceError) as refused:
        client.generate(**arguments)
    assert refused.value.code == code


def test_files_of_tokens_alone_are_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="leave one of them out"):
        client.generate(0, output="tokens", accept="image/png")


def test_options_are_those_of_the_service() -> None:
    assert set(GenerateOptions.__annotations__) == set(public_names(options_generate.GenerateOptions)) - {"class"}


def test_events_of_the_blocking_client(server: Server) -> None:
    with Client(server.url) as client:
        events = list(client.generate_events(0, n=2))
    names = [event.name for event in events if event.name != "progress"]
    assert names == ["accepted", "started", "result", "result", "done"]
    assert events[0].fields["samples"] == 2


async def test_events_of_the_asynchronous_client(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        events: list[GenerateEvent] = [event async for event in client.generate_events(0, accept="image/jpeg")]
    (result,) = (event for event in events if event.name == "result")
    assert result.files["pixels"][0] == "image/jpeg"


def test_leaving_the_events_ends_the_work(server: Server) -> None:
    before = server.generators.cancelled
    server.generators.stall = asyncio.Event().wait  # type: ignore[assignment]
    try:
        with Client(server.url) as client:
            stream = client.generate_events(0)
            assert next(stream).name == "accepted"
            stream.close()
            eventually(lambda: server.generators.cancelled == before + 1)
    finally:
        server.generators.stall = None


def test_a_failure_on_the_way_is_an_error(client: Client, server: Server) -> None:
    async def fail() -> None:
        raise RuntimeError("a fault of the generator")

    server.generators.stall = fail
    try:
        with pytest.raises(ServiceError) as failed:
            client.generate(0)
    finally:
        server.generators.stall = None
    assert (failed.value.status, failed.value.code) == (500, "internal")
