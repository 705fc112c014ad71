"""Messages of Ray about tasks on standard error."""

from __future__ import annotations

from contextlib import redirect_stdout

import pytest

from service.bulk.ray_messages import RayMessages


def test_actors_that_the_run_ends_are_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with redirect_stdout(RayMessages()):
        print("(raylet) Task submit failed. Error: The actor is dead because it was killed by `ray.kill`.")
        print("(raylet) A worker was killed: the node runs low on memory.", flush=True)
        print()
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "(raylet) A worker was killed: the node runs low on memory.\n\n"
