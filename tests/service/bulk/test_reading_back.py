"""Encoded data sets in training loops: torch, Hugging Face's `datasets`, and the project's own trainer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bulk_samples import EXECUTOR, SQUARES, Stopping, Tokenize
from rich.console import Console

from model.codes.info import CodesError
from model.codes.loading import CodesDataset, hugging_face
from service.bulk.job import Job, Request
from training.distributed import Ranks
from training.generator.preparation import prepare
from training.recipes import GENERATOR_RECIPES


@pytest.fixture(scope="module", params=["parquet", "tar"])
def codes(request: pytest.FixtureRequest, source: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("codes")
    Job(Request(source, dest, bundle, SQUARES, request.param, shard_items=4)).run(EXECUTOR)
    return dest


def test_torch_draws_batches_of_tokens_and_classes(codes: Path) -> None:
    loader = torch.utils.data.DataLoader(CodesDataset(codes), batch_size=4, shuffle=True)
    tokens, labels = next(iter(loader))
    assert tokens.shape == (4, 1, 4, 4)
    assert tokens.dtype == torch.int64
    assert set(labels.tolist()) <= {0, 1}
    assert CodesDataset(codes, "clips")[0][0].shape == (2, 4, 4)


def test_datasets_of_hugging_face_load_the_shards(codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = hugging_face(codes)
    own = CodesDataset(codes).rows
    assert len(rows) == len(own)
    name = "tokens" if "tokens" in rows.column_names else "tokens.npy"
    assert np.array_equal(np.asarray(rows[0][name]).ravel(), own.codes[0].ravel())


def test_a_data_set_without_one_of_its_shards_is_refused(
    codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = len(CodesDataset(codes))
    shutil.copytree(codes, tmp_path / "codes")
    min((tmp_path / "codes").glob("images-*.*")).unlink()
    for load in (CodesDataset, hugging_face):
        with pytest.raises(CodesError, match=f"rows of images, not {rows}"):
            load(tmp_path / "codes")


@pytest.mark.parametrize(
    "damaged", ["manifest/images-00000.jsonl", "imagenet32_codes/0.npy", "imagenet32_labels/0.npy"]
)
@pytest.mark.parametrize("content", [b"", b"{\n", None])
def test_a_damaged_tree_of_npy_is_refused(
    tokenize: Tokenize, tmp_path: Path, damaged: str, content: bytes | None
) -> None:
    tokenize(tmp_path, container="npy", kinds=("images",))
    (tmp_path / damaged).unlink()
    if content is not None:
        (tmp_path / damaged).write_bytes(content)
    with pytest.raises(CodesError, match=str(tmp_path)):
        CodesDataset(tmp_path)


def test_a_run_that_has_not_ended_is_not_read(tokenize: Tokenize, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path, shard_items=1, executor=Stopping(1))
    with pytest.raises(CodesError, match="has not ended"):
        CodesDataset(tmp_path)


def test_the_trainer_takes_the_data_set_as_it_is(codes: Path, bundle: Path, tmp_path: Path) -> None:
    arguments: Any = (GENERATOR_RECIPES["lm-debug"], bundle, codes, tmp_path, torch.device("cpu"), Ranks())
    run = prepare(*arguments, Console(quiet=True))
    assert run.loader.report() == {"images": 9, "clips": 2}  # first frames of clips are pictures too
