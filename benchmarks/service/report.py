"""Figures of a run: goodput, latencies from the planned time, refusals, and CPU time by process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row, markdown_table
from benchmarks.service.load import Run
from benchmarks.service.mixes import MIXES
from benchmarks.service.rows import SHED, Failure

QUANTILES = (50.0, 90.0, 99.0, 99.9)
LATE_SHARE = 0.01  # of the requests, above which a run is void
LATE_OF_OBJECTIVE = 0.05  # that a request may begin after its planned time
LATE_LEAST_S = 2e-3
ALL_BUSY = 0.95  # of the connections: some of each process close and open
# Processes of the service whose CPU time has a place in a row.
TIERS = (("Ingress",), ("media worker",), ("Tokenizer",), ("haproxy", "HAProxyManager"))
CPU_COLUMN = "CPU ms a request: all, ingress, media workers, tokenizer, HAProxy and its manager"


class LateError(Exception):
    """The generator began too many requests after their planned time, so the figures would flatter the service."""


@dataclass(frozen=True)
class Summary:
    """Figures of the requests that were due after the warm-up.

    Args:
        requests: their number.
        answered: of them with 200.
        goodput: answered within the objective, per second.
        rate: answers with 200 per second, by the time of the answer.
        latency_ms: quantiles of the answers with 200 (`QUANTILES`), from the planned time.
        sheds: refused with 429 or 503.
        sheds_in_time: of them within the objective.
        shed_ms: quantiles of the refusals.
        retry_after: smallest, median and largest seconds that refusals named, NaN without.
        without_retry_after: refusals that named none.
        errors: all else, by status and problem, or by failure.
        late_ms: 99 % began at most this long after their planned time.
    """

    requests: int
    answered: int
    goodput: float
    rate: float
    latency_ms: tuple[float, ...]
    sheds: int
    sheds_in_time: int
    shed_ms: tuple[float, ...]
    retry_after: tuple[float, float, float]
    without_retry_after: int
    errors: dict[str, int]
    late_ms: float


def summarize(run: Run, objective_s: float, late_s: float | None = None) -> Summary:
    """Return the figures of a run.

    Args:
        run: of `run_load`.
        objective_s: latency that goodput demands.
        late_s: by which requests may begin after their planned time; a twentieth of the objective by default.

    Raises:
        LateError: the generator did not keep up with its plan.
    """
    load = run.load
    rows = run.rows[run.rows["due"] >= load.warm_up]
    allowed = max(LATE_LEAST_S, LATE_OF_OBJECTIVE * objective_s) if late_s is None else late_s
    late = _check_kept_up(run, rows, allowed) if load.rate is not None else 0.0
    latency = rows["done"] - rows["due"]
    ok, shed = rows["status"] == 200, np.isin(rows["status"], SHED)
    ends = run.rows["done"][run.rows["status"] == 200]
    in_time = (ends >= load.warm_up) & (ends < load.warm_up + load.seconds)
    retry = rows["retry_after"][shed]
    named = retry[~np.isnan(retry)]
    return Summary(
        requests=len(rows),
        answered=int(ok.sum()),
        goodput=float((ok & (latency <= objective_s)).sum() / load.seconds),
        rate=float(in_time.sum() / load.seconds),
        latency_ms=_quantiles(latency[ok]),
        sheds=int(shed.sum()),
        sheds_in_time=int((shed & (latency <= objective_s)).sum()),
        shed_ms=_quantiles(latency[shed]),
        retry_after=(float(named.min()), float(np.median(named)), float(named.max())) if len(named) else (np.nan,) * 3,
        without_retry_after=len(retry) - len(named),
        errors=dict(Counter(_error(row) for row in rows[~ok & ~shed])),
        late_ms=late * 1e3,
    )


def completions(run: Run) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the starts of the seconds of a run, and the answers with 200 and the refusals in each."""
    edges = np.arange(0.0, np.nanmax(run.rows["done"], initial=1.0) + 1)
    ok = run.rows["done"][run.rows["status"] == 200]
    shed = run.rows["done"][np.isin(run.rows["status"], SHED)]
    return edges[:-1], np.histogram(ok, edges)[0], np.histogram(shed, edges)[0]


def row(name: str, run: Run, summary: Summary, objective_s: float) -> Row:
    """Return the figures of a run as a row of a page.

    Args:
        name: of the load.
        run, summary: of it.
        objective_s: of the summary.
    """
    items, objective = MIXES[run.load.mix].items, f"{1e3 * objective_s:g} ms"
    errors = ", ".join(f"{key}: {count}" for key, count in sorted(summary.errors.items())) or "0"
    missing = f", {summary.without_retry_after} without" if summary.without_retry_after else ""
    waits = " / ".join(f"{value:.3g}" for value in summary.retry_after) + missing
    return {
        "mix": f"`{run.load.mix}`",
        "load": name,
        "items/s": _rate(items * summary.rate),
        f"within {objective}, 1/s": _rate(items * summary.goodput),
        "p50 / p90 / p99 / p99.9, ms": " / ".join(f"{value:.1f}" for value in summary.latency_ms),
        f"refused, of them within {objective}": _share(summary.sheds_in_time, summary.sheds),
        "99 % of refusals within, ms": f"{summary.shed_ms[2]:.1f}" if summary.sheds else "-",
        "Retry-After: least / median / most, s": waits if summary.sheds else "-",
        "errors": errors,
        "began late: 99 %, ms": f"{summary.late_ms:.2f}",
        "GPU busy": "-" if run.gpu is None else f"{run.gpu:.0%}",
        CPU_COLUMN: _tiers(run),
    }


def void_row(name: str, run: Run, error: LateError, like: Iterable[str]) -> Row:
    """Return the row of a run without figures.

    Args:
        name, run: of the load.
        error: the reason.
        like: columns of the other rows.
    """
    return dict.fromkeys(like, "-") | {"mix": f"`{run.load.mix}`", "load": name, "errors": f"void: {error}"}


def cpu_table(run: Run) -> Iterator[str]:
    """Return the lines of a Markdown table of the service's CPU time by kind of process."""
    answers = max(run.cpu_answers, 1)
    rows = [(name, count, seconds) for name, (count, seconds) in run.cpu.items()]
    rows.append(("all", sum(count for _, count, _ in rows), sum(seconds for _, _, seconds in rows)))
    shown = (
        (name, count, f"{1e3 * seconds / answers:.2f}", f"{seconds / run.load.seconds:.2f}")
        for name, count, seconds in sorted(rows, key=lambda row: -row[2])
        if seconds > 0
    )
    return markdown_table(("process", "number", "CPU ms a request", "cores"), shown)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _share(part: int, whole: int) -> str:
    return f"{whole:,}, {part / whole:.1%}" if whole else "0"


def _tiers(run: Run) -> str:
    if not run.cpu:
        return "-"
    cost = {name: 1e3 * seconds / max(run.cpu_answers, 1) for name, (_, seconds) in run.cpu.items()}
    parts = (sum(cost.get(name, 0.0) for name in names) for names in TIERS)
    return f"{sum(cost.values()):.2f}: " + ", ".join(f"{part:.2f}" if part >= 0.005 else "-" for part in parts)


def _check_kept_up(run: Run, rows: NDArray[np.void], allowed: float) -> float:
    """Return the lateness in seconds that 99 % of the requests do not exceed."""
    if not len(rows):
        return 0.0
    lateness = np.where(np.isnan(rows["begun"]), np.inf, rows["begun"] - rows["due"])
    share = float((lateness > allowed).mean())
    late = float(np.quantile(lateness, 0.99, method="higher"))
    if share > LATE_SHARE:
        unsent = int(np.isinf(lateness).sum())
        in_time = int((lateness <= allowed).sum()) / run.load.seconds
        busy, most = _most_at_once(run.rows), run.load.connections
        remedy = "Lower the rate, add processes, or give it cores of its own."
        if busy > ALL_BUSY * most:
            remedy = f"It had {busy} requests in flight on {most} connections. Add connections, or lower the rate."
        raise LateError(
            f"The load generator did not keep up: {share:.1%} of {len(rows)} requests began more than "
            f"{1e3 * allowed:.1f} ms after their planned time (99 % within {1e3 * late:.1f} ms, {unsent} never began). "
            f"It began {in_time:.0f}/s in time. {remedy}"
        )
    return late


def _most_at_once(rows: NDArray[np.void]) -> int:
    """Return the most requests that were in flight at a time."""
    begun, done = rows["begun"], rows["done"]
    times = np.concatenate([begun[~np.isnan(begun)], done[~np.isnan(done)]])
    changes = np.repeat([1, -1], [np.count_nonzero(~np.isnan(begun)), np.count_nonzero(~np.isnan(done))])
    return int(np.cumsum(changes[np.argsort(times)]).max(initial=0))


def _quantiles(seconds: NDArray[np.float64]) -> tuple[float, ...]:
    if not len(seconds):
        return (float("nan"),) * len(QUANTILES)
    return tuple(float(value) for value in 1e3 * np.percentile(seconds, QUANTILES, method="higher"))


def _error(row: np.void) -> str:
    if not row["status"]:
        return Failure(int(row["failure"])).name.lower()
    problem = bytes(row["problem"]).decode(errors="replace")
    return f"{row['status']} {problem}".strip()
