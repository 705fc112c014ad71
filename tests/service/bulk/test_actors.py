"""An actor of Ray Data answers with the sentences of its failures, which Ray would hide in its own."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from bulk_samples import EXECUTOR, SQUARES

from service.bulk.errors import BulkError
from service.bulk.executors import Report
from service.bulk.job import Estimate, Job, Outcome, Request
from service.bulk.pipeline import EncoderActor, read_report
from service.cli.tokenize import forecast, summary


def test_a_tokenizer_that_cannot_be_made_is_one_sentence(bundle: Path, source: Path, tmp_path: Path) -> None:
    job = Job(Request(source, tmp_path, bundle, SQUARES))
    nowhere = tmp_path / "not on this node"
    actor = EncoderActor(nowhere, tmp_path, job.info(EXECUTOR.workplace), EXECUTOR.workplace)
    answers = actor({"shard": [pickle.dumps(job.shards[0])]})["report"]
    with pytest.raises(BulkError) as refused:
        read_report(answers[0])
    assert str(refused.value) == (
        f"A tokenizer failed: {nowhere} is not a bundle: there is no such folder. What is done stays; run the command "
        "again."
    )


def test_a_shard_that_cannot_be_written_is_one_sentence(bundle: Path, source: Path, tmp_path: Path) -> None:
    job = Job(Request(source, tmp_path, bundle, SQUARES))
    (tmp_path / "file").touch()
    actor = EncoderActor(bundle, tmp_path / "file", job.info(EXECUTOR.workplace), EXECUTOR.workplace)
    try:
        answers = actor({"shard": [pickle.dumps(job.shards[0])]})["report"]
    finally:
        actor.close()
    with pytest.raises(BulkError, match="A tokenizer failed: NotADirectoryError: "):
        read_report(answers[0])


def test_a_summary_tells_the_time_of_encoding_from_that_of_all(bundle: Path, source: Path, tmp_path: Path) -> None:
    info = replace(Job(Request(source, tmp_path, bundle, SQUARES)).info(EXECUTOR.workplace), rows={"images": 1800})
    said = summary(Outcome(info, 2000, 400, 200, 20.0), 35.0)
    assert said == (
        "1,800 rows of images; 1,600 items in 20 s at 80 items/s, 35 s with the start; 400 items were done before"
    )
    one = summary(Outcome(replace(info, rows={"clips": 1}), 2, 1, 0, 0.5), 9.0)
    assert one == "1 row of clips; 1 item in less than 1 s at 2.0 items/s, 9 s with the start; 1 item was done before"
    assert summary(Outcome(info, 400, 400, 0, 0.0), 9.0) == "1,800 rows of images; 400 items were done before"


def test_a_small_forecast_has_small_units() -> None:
    assert forecast(Estimate(1, 20.0, 0.05, 700.0, 0.0)) == (
        "less than 1 s at 20 items/s here, 1 KiB of shards; 0.0% of the sample cannot be read."
    )
    assert forecast(Estimate(90, 0.5, 180.0, 2**25, 0.1)) == (
        "about 3 min at 0.5 items/s here, 32 MiB of shards; 10.0% of the sample cannot be read."
    )


def test_seconds_of_a_run_are_those_of_its_slowest_tokenizer(bundle: Path, source: Path, tmp_path: Path) -> None:
    class Told:
        """An executor whose reports say when they came."""

        tokenizers, workplace = 2, EXECUTOR.workplace

        def run(self, bundle, dest, info, shards, report) -> None:  # type: ignore[no-untyped-def]
            EXECUTOR.run(bundle, dest, info, shards, lambda made: report(replace(made, seconds=next(seconds))))

    seconds, seen = iter([3.0, 8.0, 5.0, 1.0]), list[Report]()
    job = Job(Request(source, tmp_path, bundle, SQUARES, shard_items=5))
    assert job.run(Told(), report=seen.append).seconds == 8.0
    assert len(seen) == 3
