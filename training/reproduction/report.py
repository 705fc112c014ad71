"""Writes `docs/reproduction.md`: our tables beside the paper's, a verdict on every claim, what the scale cannot tell.

Every sentence about an outcome is computed from the figures; what is written by hand speaks of the set-up alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import get_args

import torch

from model import CONFIGS, OmniTokenizer, TokenizerConfig
from training.data.shards import replace_file
from training.reproduction.charts import draw_all
from training.reproduction.paper import ABLATIONS, CLAIMS, TRIED, Ablation, Claim, Entry
from training.reproduction.results import Results, Trial, mean
from training.reproduction.significance import RULE, Verdict, by_chance
from training.reproduction.variants import CLIPS, IMAGES, MULTI_SIDES, SIDE, TOKENIZER, variants

REPORT_FILE = "reproduction.md"
WIDTH = 120
KINDS: tuple[Verdict, ...] = get_args(Verdict)
CANNOT_TELL = f"""\
- **The published figures themselves.** The tokenizer has {{size:.1f}} million parameters where the paper's geometry
  has {{paper:.0f}}, a run takes minutes where the paper's took two weeks on eight A100, and the data is a demo set.
  Only the order of rows is compared, never their values. FID-lite, FVD-lite and the VGG distance come from other
  networks than FID and FVD, and from {{items}} items a set at most.
- **What adversarial training adds.** These runs have neither discriminators nor a perceptual loss, which would need
  longer runs. The paper's rFID and rFVD reward sharp texture, which such losses bring; the figures here say little of
  it.
- **Clips without photographs.** A third of the clips in training are pans over photographs, and a third of the images
  are frames of games. So a run on clips alone has seen much of what a run on images sees, and joint training has less
  to gain than with ImageNet beside UCF-101.
- **Wide windows.** At {SIDE} pixels the grid has {SIDE // TOKENIZER.patch}x{SIDE // TOKENIZER.patch} positions with
  windows of {TOKENIZER.window}x{TOKENIZER.window}; the paper's has 32x32 positions with windows of 8x8.
- **Long training.** Of so short runs one may lead because it learns faster, not because it would end higher. The
  cosine brings every stage's rate to zero at its own end.
- **Small differences.** Few seeds bound chance loosely, as the rule above says."""


def write_report(results: Results, docs: Path) -> Path:
    """Write the report and its pictures.

    Args:
        results: of all runs.
        docs: folder of documents; pictures go to `images/` in it.

    Returns:
        The report.
    """
    pictures = draw_all(results, docs / "images")
    links = {name: f"![{name}](images/{path.name})" for name, path in pictures.items()}
    parts = [
        "# The paper's ablations in small",
        _commands(results),
        "## In short",
        _summary(results),
        "## Set-up",
        _setup(results),
        links["curves"],
        "## Rule",
        fill(f"{RULE} {_chance(results)}", WIDTH),
    ]
    for ablation in ABLATIONS:
        number = ablation.number
        parts += [
            f"## Table {number}: {ablation.title.lower()}",
            _table(results, ablation),
            links[f"table-{number}"],
            _claims(results, [claim for claim in CLAIMS if claim.table == number]),
            f"Table {number}: **{results.table_verdict(number)}**.",
        ]
    parts += ["## What this scale cannot tell", _cannot_tell(results)]
    parts += ["## Runs", _runs(results), _preprocessing(results)]
    path = docs / REPORT_FILE
    replace_file(path, ("\n\n".join(parts) + "\n").encode())
    return path


def _commands(results: Results) -> str:
    steps = max((run["steps"] for run in results.runs if len(run["stages"]) < 3), default=0)
    return f"""\
Section 4.4 of the paper compares ways of training and kinds of attention in tables 7 to 10. Here the same comparisons
are made with a small tokenizer. Everything on this page is written by the last of these commands, from
`docs/reproduction.json`:

```bash
omnitok data build demo && omnitok data networks
omnitok reproduce train --steps {steps} --seeds {len(results.seeds)}
omnitok reproduce measure
omnitok reproduce report
```"""


def _summary(results: Results) -> str:
    heads = "claims: agree, disagree, mixed, within seed spread, too few seeds"
    lines = [f"| table | compares | verdict | {heads} |", "|---|---|---|---|"]
    for ablation in ABLATIONS:
        verdicts = [results.verdict(claim) for claim in CLAIMS if claim.table == ablation.number]
        counts = [verdicts.count(kind) for kind in KINDS]
        told = f"{results.table_verdict(ablation.number)} | {', '.join(map(str, counts))}"
        lines.append(f"| {ablation.number} | {ablation.title.lower()} | {told} |")
    for kind, words in (("agrees", "Agrees with the paper"), ("disagrees", "Does not agree"), ("mixed", "Mixed")):
        claims = [claim for claim in CLAIMS if results.verdict(claim) == kind]
        if claims:
            lines += ["", f"{words}:", "", *(f"- {claim.words[:-1]} (table {claim.table})." for claim in claims)]
    return "\n".join(lines)


def _setup(results: Results) -> str:
    spread = _spread_of([run["tokens"] / run["steps"] for run in results.runs])
    machines = ", ".join(sorted({run["machine"] for run in results.runs}))
    commits = ", ".join(sorted({run["commit"] for run in results.runs}))
    listed = "\n".join(f"| {variant.name} | {variant.words} |" for variant in variants().values())
    words = f"""\
Width {TOKENIZER.width}, {TOKENIZER.heads} heads of {TOKENIZER.head_dim}, {len(TOKENIZER.encoder_blocks)} spatial and
{TOKENIZER.temporal_layers} temporal layers on each side, {TOKENIZER.patch}x{TOKENIZER.patch} pixels and
{TOKENIZER.temporal_patch} frames per token, 2,048 codes of 8 dimensions. Pictures have a quarter of the paper's sides:
{SIDE} pixels where it has 256, and {", ".join(map(str, MULTI_SIDES))} where it draws from 128 to 384. Every step has
{IMAGES} images or {CLIPS} clips of 17 frames at {SIDE} pixels, or about as many tokens at another side ({spread}
tokens a step, by run). Every run has the same number of steps; runs of two stages spend half on each, and the third
stage of table 10 adds half as many. Losses: L2, L1 and equations 1 and 2. Seeds:
{", ".join(map(str, results.seeds))}. Trained on {machines}; code at {commits}."""
    return f"""\
{fill(words, WIDTH)}

| run | trained on |
|---|---|
{listed}

Measured are centre squares of held-out photographs, unseen levels of the games, and recordings of real cameras; the
number behind a set is its side in pixels. A cell is the mean over the seeds with their range; in the paper's columns
smaller is better."""


def _cannot_tell(results: Results) -> str:
    sizes = [_parameters(config) / 1e6 for config in (TOKENIZER, CONFIGS["paper"])]
    sets = [found for run in results.runs for stage in run["figures"].values() for found in stage.values()]
    return CANNOT_TELL.format(size=sizes[0], paper=sizes[1], items=max((found["items"] for found in sets), default=0))


def _parameters(config: TokenizerConfig) -> int:
    with torch.device("meta"):  # shapes alone
        return sum(weight.numel() for weight in OmniTokenizer(config).parameters())


def _chance(results: Results) -> str:
    seeds = len(results.seeds)
    return (
        f"With {seeds} seeds the ranges of two trainings that do not differ lie apart in {by_chance(seeds):.0%} of "
        "cases, half of them in the direction of the claim: a single verdict is weak evidence, several figures that "
        "say the same are more."
    )


def _table(results: Results, ablation: Ablation) -> str:
    ours = [f"{held_out} {figure}" for held_out, figure in ablation.columns]
    paper = [f"*paper: {name}*" for name in ablation.paper_columns]
    lines = ["| | " + " | ".join([*ours, *paper]) + " |", "|" + "---|" * (1 + len(ours) + len(paper))]
    for row in ablation.rows:
        cells = [_cell(results.values(row.entry, *column), column[1]) for column in ablation.columns]
        cells += ["-" if value is None else f"{value:.2f}" for value in row.paper]
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    halves = [results.half_split(*column) for column in ablation.columns]
    if any(value is not None for value in halves):
        pairs = zip(halves, ablation.columns, strict=True)
        cells = ["-" if value is None else _number(value, column[1]) for value, column in pairs]
        lines.append("| *random halves of the originals* | " + " | ".join([*cells, *("" for _ in paper)]) + " |")
    return "\n".join(lines)


def _claims(results: Results, claims: Sequence[Claim]) -> str:
    """Return the paper's figures, ours, and the remarks on both."""
    tried = list(dict.fromkeys(place for claim in claims for place in TRIED[claim.kind]))
    heads = [f"{held_out} {figure}" for held_out, figure in tried]
    lines = [
        "| claim of the paper | its figures | our runs | " + " | ".join(heads) + " | verdict |",
        "|" + "---|" * (4 + len(heads)),
    ]
    for claim in claims:
        sign = "<" if claim.relation == "better" else "≈"
        trials = {(trial.held_out, trial.figure): _trial(trial) for trial in results.trials(claim)}
        cells = [
            claim.words[:-1],
            f"{claim.paper[0]:.2f} {sign} {claim.paper[1]:.2f}",
            f"{_label(claim.first)} : {_label(claim.second)}",
            *(trials.get(place, "") for place in tried),
            f"**{results.verdict(claim)}**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    limits = dict.fromkeys(claim.limits for claim in claims)
    return "\n".join([*lines, "", *(f"- {words}" for words in limits)])


def _trial(trial: Trial) -> str:
    if not trial.first or not trial.second:
        return "not measured"
    values = " : ".join(_number(mean(values), trial.figure) for values in (trial.first, trial.second))
    return f"{values}, {trial.verdict}"


def _label(entry: Entry) -> str:
    return f"{entry.variant} ({entry.stage})"


def _cell(values: Sequence[float], figure: str) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return _number(values[0], figure)
    return f"{_number(mean(values), figure)} ({_number(min(values), figure)} to {_number(max(values), figure)})"


def _number(value: float, figure: str) -> str:
    return f"{value:.3f}" if figure in ("SSIM", "VGG distance") else f"{value:.2f}"


def _spread_of(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if round(low) == round(high) else f"{low:,.0f} to {high:,.0f}"


def _runs(results: Results) -> str:
    lines = [
        "| run | seed | steps | tokens, million | seconds | final loss of images, clips | codes used, photographs 64 |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in results.runs:
        losses = list(run["stages"].values())[-1]["final_loss"]
        told = ", ".join(f"{losses[kind]:.3f}" if kind in losses else "-" for kind in ("images", "clips"))
        used = [f"{sets['photographs-64']['usage']:.0%}" for sets in run["figures"].values() if _has_usage(sets)]
        size = f"{run['steps']:,} | {run['tokens'] / 1e6:.1f} | {run['seconds']:,.0f}"
        lines.append(f"| {run['variant']} | {run['seed']} | {size} | {told} | {', '.join(used) or '-'} |")
    words = ["Seconds are of training, while several runs shared the device: they do not compare speeds."]
    if unmeasured := [f"{run['variant']} of seed {run['seed']}" for run in results.runs if not run["figures"]]:
        words.append(f"No bundle of these runs was measured on held-out sets: {', '.join(unmeasured)}.")
    return "\n".join([*lines, "", fill(" ".join(words), WIDTH)])


def _has_usage(sets: dict[str, dict[str, float]]) -> bool:
    return "usage" in sets.get("photographs-64", {})


def _preprocessing(results: Results) -> str:
    return "\n".join(["Judging networks:", "", *(f"- {words}" for words in results.preprocessing)])
