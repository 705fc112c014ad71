"""Figures of all runs, as tables and claims ask for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.reproduction.paper import CLAIMS, TRIED, Claim, Entry
from training.reproduction.run import FORMAT
from training.reproduction.significance import Verdict, join, verdict


@dataclass(frozen=True)
class Trial:
    """The evidence of one metric on one set for a claim."""

    held_out: str
    figure: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    verdict: Verdict


class Results:
    """The records that `gather` collected.

    Args:
        data: its dictionary.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.runs: list[dict[str, Any]] = data["runs"]
        self.preprocessing: list[str] = data["preprocessing"]

    @property
    def seeds(self) -> list[int]:
        """All that were trained."""
        return sorted({run["seed"] for run in self.runs})

    def of(self, variant: str) -> list[dict[str, Any]]:
        """Runs of a variant by seed."""
        return sorted((run for run in self.runs if run["variant"] == variant), key=lambda run: run["seed"])

    def values(self, entry: Entry, held_out: str, figure: str) -> tuple[float, ...]:
        """A figure of every seed that has it."""
        sets = [run["figures"].get(entry.stage, {}).get(held_out, {}) for run in self.of(entry.variant)]
        return tuple(found[figure] for found in sets if figure in found)

    def half_split(self, held_out: str, figure: str) -> float | None:
        """Return the metric between two random halves of the originals; equal for every tokenizer."""
        for run in self.runs:
            for sets in run["figures"].values():
                if (value := sets.get(held_out, {}).get("half splits", {}).get(figure)) is not None:
                    return float(value)
        return None

    def trials(self, claim: Claim) -> list[Trial]:
        """The figures that a claim is tried on."""
        found = []
        for held_out, figure in TRIED[claim.kind]:
            first, second = (self.values(entry, held_out, figure) for entry in (claim.first, claim.second))
            found.append(Trial(held_out, figure, first, second, verdict(first, second, figure, claim.relation)))
        return found

    def verdict(self, claim: Claim) -> Verdict:
        """On a claim, by the figures that were measured of both."""
        tried = [trial.verdict for trial in self.trials(claim) if trial.first and trial.second]
        return join(tried) if tried else "too few seeds"

    def table_verdict(self, number: int) -> Verdict:
        """On a table of the paper, by the claims that had seeds enough, if those are not the fewer."""
        verdicts = [self.verdict(claim) for claim in CLAIMS if claim.table == number]
        tried = [verdict for verdict in verdicts if verdict != "too few seeds"]
        return join(tried) if 2 * len(tried) >= len(verdicts) else "too few seeds"


def read_results(path: Path) -> Results:
    """The results of a file.

    Raises:
        TrainingError: the file is missing or is none of ours, or has no runs.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} holds no figures: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise TrainingError(f"{path} is not a file of figures of format {FORMAT!r}")
    if not data["runs"]:
        raise TrainingError(f"{path} has no runs")
    return Results(data)


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)
