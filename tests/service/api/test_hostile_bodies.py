"""A small part of `benchmarks.hostile`: damaged files and bodies get an answer or a problem, and leave no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from api_server import VQ, Server

from benchmarks.hostile import in_sandbox, over_http
from benchmarks.hostile.corpus import FormCorpus, MediaCorpus
from benchmarks.hostile.outcomes import Rows, faults
from benchmarks.hostile.trace import read_trace

SEED = 7
BOMBS = 174
FILES = range(BOMBS - 15, BOMBS + 60)  # the last bombs nest deepest and inflate most


async def test_the_sandbox_survives_damaged_files(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    replaced = await in_sandbox.run(MediaCorpus(SEED), FILES, rows)
    assert set(replaced) <= {"recycled"}
    assert len(rows.rows) == len(FILES)
    assert not list(faults(rows.rows))


def test_the_service_survives_damaged_bodies(server: Server, tmp_path: Path) -> None:
    media, forms = Rows(tmp_path / "media.jsonl"), Rows(tmp_path / "forms.jsonl")
    over_http.run(server.url, MediaCorpus(SEED).case, range(BOMBS, BOMBS + 60), media)
    over_http.run(server.url, FormCorpus(SEED, VQ.hash).case, range(200), forms)
    assert not [*faults(media.rows), *faults(forms.rows)]
    assert {row.answer for row in forms.rows} >= {"ok", "malformed-body", "invalid-tensor"}


def test_cases_follow_from_the_seed(tmp_path: Path) -> None:
    one, same, other = (MediaCorpus(seed).case(300) for seed in (1, 1, 2))
    assert one == same != other
    rows = Rows(tmp_path / "rows.jsonl")
    rows.add(in_sandbox.Outcome(1, "noise", "x", "ok", 0.1))
    assert Rows(tmp_path / "rows.jsonl").missing(range(3)) == [0, 2]


@pytest.mark.parametrize(
    ("line", "attempts", "successes"),
    [
        ('7 openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = -1 EPERM (Operation not permitted)', 1, 0),
        ("7 socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 3", 1, 1),
        ("7 recvfrom(3, 0x1, 2, 0, NULL, NULL) = 3", 0, 0),
        ("8 socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 3", 0, 0),
        ("7 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n7 <... clone resumed>) = 99", 1, 1),
    ],
)
def test_the_trace_counts_calls_of_closed_workers(line: str, attempts: int, successes: int) -> None:
    lines = ["7 socket(AF_UNIX, SOCK_STREAM, 0) = 3", "7 seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=9}) = 0"]
    trace = read_trace([*lines, *line.split("\n")])
    assert trace.workers == {7}
    assert (trace.attempts.total(), trace.successes.total()) == (attempts, successes)
