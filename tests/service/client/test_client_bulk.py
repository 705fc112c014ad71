"""Many items in one call of the client: each outcome is that of its item alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_server import Server
from client_kinds import PICTURE, png
from PIL import Image
from waiting import eventually

from service.client import EncodeResult, ServiceError, bulk


def requests(server: Server) -> int:
    eventually(lambda: not any(server.counts.flying.values()))  # a request is counted after its answer
    return server.counts.requests["/encode", "POST", "200"]


def test_each_item_has_the_outcome_that_it_has_alone(client: Any, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png())
    media = [path, png(), PICTURE, b"not a picture", Image.fromarray(PICTURE)]
    before = requests(server)
    outcomes = client.encode_many(media, output="both")
    assert requests(server) == before + 1
    for sent, outcome in zip(media, outcomes, strict=True):
        if isinstance(outcome, EncodeResult):
            alone = client.encode(sent, output="both")
            assert np.array_equal(outcome.tokens, alone.tokens)
            assert np.array_equal(outcome.latents, alone.latents)
            assert outcome.meta.source == alone.meta.source
        else:
            assert isinstance(outcome, ServiceError)
            with pytest.raises(ServiceError) as error:
                client.encode(sent, output="both")
            assert (outcome.status, outcome.code) == (error.value.status, error.value.code)
    assert [isinstance(outcome, ServiceError) for outcome in outcomes] == [False, False, False, True, False]


def test_items_are_divided_by_number_and_bytes(client: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BODY_ITEMS", 3)
    monkeypatch.setattr(bulk, "BODY_BYTES", 3000)
    large = PICTURE.repeat(2, 0).repeat(2, 1)  # 4608 bytes, and so alone
    before = requests(server)
    outcomes = client.encode_many([PICTURE] * 4 + [large] + [PICTURE])
    assert [outcome.tokens.shape for outcome in outcomes] == [(1, 2, 3)] * 4 + [(1, 4, 6)] + [(1, 2, 3)]
    assert requests(server) == before + 4, "two with two pictures, the large one, and one with the rest"


def test_an_item_that_is_refused_for_its_company_is_sent_alone(client: Any, server: Server) -> None:
    large = np.zeros((2048, 1024, 3), np.uint8)  # two take all positions of a body
    before = requests(server)
    outcomes = client.encode_many([large] * 3)
    assert [outcome.tokens.shape for outcome in outcomes] == [(1, 256, 128)] * 3
    assert requests(server) == before + 2


def test_options_are_those_of_all_and_refused_for_all(client: Any) -> None:
    small, array = client.encode_many([png(), PICTURE], size="8")
    assert small.tokens.shape == (1, 1, 1)
    assert array.code == "invalid-options"
    with pytest.raises(ServiceError, match="invalid-options"):
        client.encode_many([png()], colour="blue")
    assert client.encode_many([]) == []
