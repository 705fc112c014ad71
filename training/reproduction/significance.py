"""When figures of a few seeds agree with a claim: one rule for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Verdict = Literal["agrees", "disagrees", "mixed", "within seed spread", "too few seeds"]
LARGER_IS_BETTER = ("PSNR", "SSIM")
EQUAL_DECIBELS = 0.1  # PSNR of less difference counts as equal
EQUAL_SHARE = (
    0.05  # and distances of less than this share of their mean; the paper's two "equal" pairs differ by 2 and 5 %
)

RULE = (
    "A claim that one training is better *agrees* with a figure when every seed of it beats every seed of the other, "
    "*disagrees* when every seed is beaten, and is *within seed spread* when the ranges touch. A claim that two are "
    f"equal agrees when their means differ by less than {EQUAL_DECIBELS:g} dB of PSNR or {EQUAL_SHARE:.0%} of a "
    "distance, disagrees when they differ by more and the ranges do not touch, and is within seed spread otherwise. "
    "A claim that is tried on several figures agrees or disagrees when more than half of those that were measured do "
    "and none says the opposite, is *mixed* when figures contradict each other, and within seed spread otherwise; the "
    "verdict on a table joins those on its claims in the same way, if half of them had seeds enough."
)


def verdict(
    first: Sequence[float], second: Sequence[float], figure: str, relation: Literal["better", "equal"]
) -> Verdict:
    """The outcome of one metric for a claim.

    Args:
        first, second: of every seed.
        figure: its name, which says whether larger is better.
        relation: what is claimed of the first.
    """
    if min(len(first), len(second)) < 2:
        return "too few seeds"
    sign = 1.0 if figure in LARGER_IS_BETTER else -1.0
    above = min(sign * value for value in first) > max(sign * value for value in second)
    below = max(sign * value for value in first) < min(sign * value for value in second)
    if relation == "better":
        return "agrees" if above else "disagrees" if below else "within seed spread"
    means = sum(first) / len(first), sum(second) / len(second)
    allowed = EQUAL_DECIBELS if figure == "PSNR" else EQUAL_SHARE * sum(means) / 2
    if abs(means[0] - means[1]) < allowed:
        return "agrees"
    return "disagrees" if above or below else "within seed spread"


def join(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several."""
    agree, disagree = verdicts.count("agrees"), verdicts.count("disagrees")
    if "mixed" in verdicts or (agree and disagree):
        return "mixed"
    if 2 * agree > len(verdicts):
        return "agrees"
    if 2 * disagree > len(verdicts):
        return "disagrees"
    return "too few seeds" if verdicts.count("too few seeds") == len(verdicts) else "within seed spread"


def by_chance(seeds: int) -> float:
    """Return the probability that the ranges of two equal trainings do not overlap, in either direction."""
    return 2 / math.comb(2 * seeds, seeds)
