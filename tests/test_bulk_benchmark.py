"""The command of `benchmarks.bulk` refuses what it does not know."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from benchmarks.bulk import app


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [("--config", "nothing", "published"), ("--kind", "sounds", "clips"), ("--resize", "gpu", "readers")],
)
def test_a_wrong_choice_is_refused_with_those_that_there_are(option: str, value: str, known: str) -> None:
    result = CliRunner().invoke(app, [option, value])
    assert result.exit_code == 2
    assert value in result.output
    assert known in result.output
