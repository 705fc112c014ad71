"""Draw every dashboard from live data: the panels' own queries, units and titles, without Grafana.

    python -m benchmarks.dashboards.draw --prometheus http://127.0.0.1:9090 --minutes 15 --out docs/images

It reads the JSON that Grafana is provisioned with, asks Prometheus each query as Grafana would, and uses matplotlib.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

DASHBOARDS = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
SCRAPE_SECONDS = 10.0  # jsonData.timeInterval of the provisioned data source
POINTS = 200
WIDTH_INCHES, UNIT_INCHES, DPI = 16.0, 0.34, 90
BACKGROUND, PANEL, TEXT, GRID = "#111217", "#181b1f", "#ccccdc", "#2c3036"
COLORS = {
    "green": "#56a64b",
    "orange": "#ff9830",
    "red": "#e02f44",
    "text": TEXT,
    "blue": "#5794f2",
    "purple": "#b877d9",
}
CYCLE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a")
LEGEND_LINES, NAME_LENGTH, TICKS = 6, 30, 4


def scaled(value: float, base: float, units: tuple[str, ...]) -> str:
    """Return a number with the unit that leaves at most three digits before the point."""
    size = 0
    while abs(value) >= base and size < len(units) - 1:
        value, size = value / base, size + 1
    return f"{value:.3g} {units[size]}".strip()


def seconds(value: float) -> str:
    """Return a time as Grafana's unit `s` shows it."""
    if abs(value) >= 120:
        return f"{value / 60:.3g} min" if abs(value) < 7200 else f"{value / 3600:.3g} h"
    return f"{value:.3g} s" if abs(value) >= 1 or value == 0 else f"{value * 1000:.3g} ms"


SHORT = ("", "K", "Mil", "Bil")
FORMATS: dict[str, Callable[[float], str]] = {
    "none": lambda value: f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}",
    "short": lambda value: scaled(value, 1000, SHORT),
    "s": seconds,
    "bytes": lambda value: scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB")),
    "decmbytes": lambda value: scaled(value * 1e6, 1000, ("B", "kB", "MB", "GB", "TB")),
    "Bps": lambda value: scaled(value, 1000, ("B/s", "kB/s", "MB/s", "GB/s")),
    "reqps": lambda value: scaled(value, 1000, ("req/s", "K req/s")),
    "ops": lambda value: scaled(value, 1000, ("ops/s", "K ops/s")),
    "percentunit": lambda value: f"{value * 100:.3g} %" if abs(value) < 10 else f"{value * 100:.0f} %",
    "percent": lambda value: f"{value:.3g} %",
    "watt": lambda value: scaled(value, 1000, ("W", "kW")),
    "hertz": lambda value: scaled(value, 1000, ("Hz", "kHz", "MHz", "GHz")),
    "celsius": lambda value: f"{value:.3g} °C",
    "bool_on_off": lambda value: "On" if value else "Off",
}


@dataclass(frozen=True)
class Source:
    """A Prometheus and the range of time that is asked for."""

    http: httpx.Client
    start: float
    end: float

    @property
    def step(self) -> float:
        """Return the seconds between two points."""
        return max(SCRAPE_SECONDS / 2, (self.end - self.start) / POINTS)

    def expand(self, query: str, variables: dict[str, str]) -> str:
        """Return a query with Grafana's variables replaced as Grafana does."""
        rate_seconds = max(self.step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)
        known = variables | {"__rate_interval": f"{rate_seconds:.0f}s"}
        return re.sub(r"\$([a-z_]+)", lambda match: known[match[1]], query)

    def ask(self, query: str, *, instant: bool) -> list[dict[str, Any]]:
        """Return the series of a query."""
        moment = {"time": self.end} if instant else {"start": self.start, "end": self.end, "step": self.step}
        answer = self.http.get(f"/api/v1/query{'' if instant else '_range'}", params={"query": query, **moment})
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Return the name of a series."""
    name = re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), pattern).strip() or "value"
    return textwrap.shorten(name, NAME_LENGTH, placeholder="...") if " " in name else name[-NAME_LENGTH:]


def points(series: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the times and values of a series."""
    table = np.array([(float(at), float(value)) for at, value in series["values"]])
    return table[:, 0], table[:, 1]


def draw_lines(
    axes: Axes, panel: dict[str, Any], answers: list[tuple[str, list[dict[str, Any]]]], source: Source
) -> None:
    """Draw a panel of type timeseries."""
    defaults = panel["fieldConfig"]["defaults"]
    form = FORMATS[defaults["unit"]]
    stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    grid = np.arange(source.start, source.end, source.step)
    base = np.zeros(len(grid))
    drawn = 0
    for pattern, found in answers:
        for series in found:
            at, values = points(series)
            values = np.where(np.isfinite(values), values, np.nan)
            color, name = CYCLE[drawn % len(CYCLE)], legend(pattern, series["metric"])
            label = f"{name}  {form(values[-1])}" if np.isfinite(values[-1]) else name
            if stacked:
                heights = np.interp(grid, at, np.nan_to_num(values), left=0.0, right=0.0)
                axes.fill_between(date(grid), base, base + heights, color=color, alpha=0.4, linewidth=0)
                base = base + heights
                axes.plot(date(grid), base, color=color, linewidth=0.8, label=label)
            else:
                gaps = np.flatnonzero(np.diff(at) > 1.5 * source.step) + 1
                axes.plot(
                    date(np.insert(at, gaps, at[gaps - 1])),
                    np.insert(values, gaps, np.nan),
                    color=color,
                    linewidth=1,
                    label=label,
                )
            drawn += 1
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step.get("value") is not None:
            axes.axhline(step["value"], color=COLORS[step["color"]], linestyle="--", linewidth=1)
    axes.set_ylim(defaults.get("min"), defaults.get("max"))
    axes.yaxis.set_major_formatter(lambda value, _: form(value))
    if defaults["unit"] == "bool_on_off":
        axes.set_yticks((0, 1))
    if drawn:
        shown = legend_entries(axes)
        more = drawn - LEGEND_LINES
        box = axes.legend(
            *(part[:LEGEND_LINES] for part in shown),
            title=f"and {more} more" if more > 0 else None,
            title_fontsize=6,
            fontsize=7,
            ncols=2,
            columnspacing=1.0,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.1),
            frameon=False,
            labelcolor=TEXT,
        )
        box.get_title().set_color(TEXT)
    else:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=GRID, fontsize=14)


def legend_entries(axes: Axes) -> tuple[list[Any], list[str]]:
    """Return the lines and names of a legend, the largest first."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: -np.nanmax(cast("Line2D", entry[0]).get_ydata(), initial=-np.inf))
    return [handle for handle, _ in entries], [name for _, name in entries]


def draw_heat(
    axes: Axes, panel: dict[str, Any], answers: list[tuple[str, list[dict[str, Any]]]], source: Source
) -> None:
    """Draw a panel of type heatmap, whose buckets are cumulative."""
    form = FORMATS[panel["fieldConfig"]["defaults"]["unit"]]
    found = sorted(answers[0][1], key=lambda series: float(series["metric"]["le"]))
    grid = np.arange(source.start, source.end, source.step)
    rows = [np.interp(grid, *points(series), left=0.0, right=0.0) for series in found]
    counts = np.diff(np.array([np.zeros(len(grid)), *rows]), axis=0).clip(min=0)
    if not counts.any():
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=GRID, fontsize=14)
        return
    used = np.flatnonzero(counts.any(axis=1))
    first, last = used[0], used[-1] + 1
    axes.pcolormesh(date(grid), np.arange(last - first), counts[first:last], cmap="Blues_r", shading="nearest")
    bounds = [float(series["metric"]["le"]) for series in found[first:last]]
    ticks = np.unique(np.linspace(0, last - first - 1, 6).round().astype(int))
    axes.set_yticks(ticks, ["inf" if math.isinf(bounds[tick]) else form(bounds[tick]) for tick in ticks])


def draw_value(
    axes: Axes, panel: dict[str, Any], answers: list[tuple[str, list[dict[str, Any]]]], source: Source
) -> None:
    """Draw a panel of type stat: the last value on the colour of its threshold."""
    defaults = panel["fieldConfig"]["defaults"]
    found = answers[0][1]
    value = float(found[0]["values"][-1][1]) if found else math.nan
    recent = found and found[0]["values"][-1][0] > source.end - 300
    shown = FORMATS[defaults["unit"]](value) if recent and math.isfinite(value) else defaults["noValue"]
    color = GRID
    for step in defaults["thresholds"]["steps"]:
        if math.isfinite(value) and (step.get("value") is None or value >= step["value"]):
            color = COLORS[step["color"]]
    axes.set_facecolor(color)
    if found and math.isfinite(value):
        at, values = points(found[0])
        axes.fill_between(date(at), 0, values, color="white", alpha=0.15, linewidth=0)
        axes.set_xlim(date(source.start), date(source.end))
        axes.set_ylim(0, max(float(np.nanmax(values)) * 2.5, 1e-9))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, shown, transform=axes.transAxes, ha="center", va="center", color="white", fontsize=19)


def draw_table(axes: Axes, panel: dict[str, Any], answers: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """Draw a panel of type table: the labels that some row has."""
    organize = panel["transformations"][0]["options"]
    found = answers[0][1]
    columns = [name for name in organize["indexByName"] if any(row["metric"].get(name) for row in found)]
    axes.axis("off")
    lines = [[row["metric"].get(name, "") for name in columns] for row in found[:12]]
    if not lines:
        axes.text(0.5, 0.5, panel["fieldConfig"]["defaults"]["noValue"], ha="center", color=TEXT, fontsize=14)
        return
    grid = axes.table(cellText=lines, colLabels=columns, loc="upper center", cellLoc="left", edges="horizontal")
    grid.auto_set_font_size(False)
    grid.set_fontsize(8)
    grid.auto_set_column_width(list(range(len(columns))))
    for cell in grid.get_celld().values():
        cell.get_text().set_color(TEXT)
        cell.set_edgecolor(GRID)


def draw_text(axes: Axes, panel: dict[str, Any]) -> None:
    """Draw a panel of type text as it is written."""
    axes.axis("off")
    text = "\n".join(textwrap.fill(line, 90) for line in panel["options"]["content"].splitlines())
    axes.text(0, 1, text, transform=axes.transAxes, va="top", color=TEXT, fontsize=7, family="monospace")


def draw_events(axes: Axes, events: list[tuple[float, str]]) -> None:
    """Draw the dashboard's annotations."""
    for at, color in events:
        axes.axvline(date(at), color=color, linestyle=":", linewidth=0.8)


def date(at: Any) -> Any:
    """Return matplotlib's form of seconds since 1970."""
    return np.asarray(at) / 86400.0


def draw(document: dict[str, Any], source: Source) -> Figure:
    """Return the picture of a dashboard."""
    variables = {item["name"]: item.get("allValue", "") for item in document["templating"]["list"]}
    events = []
    for annotation in document["annotations"]["list"]:
        found = source.ask(source.expand(annotation["expr"], variables), instant=False)
        events += [(points(series)[0][0], COLORS[annotation["iconColor"]]) for series in found]
    panels = document["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    height = (rows + 1.5) * UNIT_INCHES
    figure = plt.figure(figsize=(WIDTH_INCHES, height), facecolor=BACKGROUND, dpi=DPI)
    unit = UNIT_INCHES / height
    figure.text(0.008, 1 - 0.9 * unit, document["title"], color=TEXT, fontsize=15, weight="bold")
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] / 24 + 0.004, 1 - (place["y"] + 1.5) * unit
        if panel["type"] == "row":
            figure.text(left, top - 0.7 * unit, panel["title"], color=TEXT, fontsize=11, weight="bold")
            continue
        width, tall = place["w"] / 24 - 0.008, (place["h"] - 0.3) * unit
        figure.add_artist(Rectangle((left, top - tall), width, tall, facecolor=PANEL, edgecolor=GRID, zorder=-1))
        figure.text(left + 0.004, top - 0.75 * unit, panel["title"], color=TEXT, fontsize=9)
        is_value = panel["type"] == "stat"
        below = 0.2 if is_value or panel["type"] in ("table", "text") else 2.6
        side = 0.004 if below < 1 else 0.045
        box = (left + side, top - tall + below * unit, width - side - 0.006, tall - (below + 1.1) * unit)
        axes = figure.add_axes(box, facecolor=PANEL)
        if panel["type"] == "text":
            draw_text(axes, panel)
            continue
        instant = panel["type"] == "table"
        answers = [
            (target.get("legendFormat", ""), source.ask(source.expand(target["expr"], variables), instant=instant))
            for target in panel["targets"]
        ]
        if is_value:
            draw_value(axes, panel, answers, source)
        elif instant:
            draw_table(axes, panel, answers)
        else:
            (draw_heat if panel["type"] == "heatmap" else draw_lines)(axes, panel, answers, source)
            draw_events(axes, events)
            axes.set_xlim(date(source.start), date(source.end))
            ticks = np.linspace(source.start, source.end, TICKS + 2)[1:-1]
            axes.set_xticks(date(ticks), [time.strftime("%H:%M:%S", time.gmtime(tick)) for tick in ticks])
            axes.tick_params(colors=TEXT, labelsize=7, length=0)
            axes.grid(color=GRID, linewidth=0.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def main() -> None:
    """Draw every dashboard but the runbooks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=15.0, help="length of the range that is drawn")
    parser.add_argument("--end", type=float, default=time.time(), help="end of the range, seconds since 1970")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the pictures")
    options = parser.parse_args()
    with httpx.Client(base_url=options.prometheus, timeout=60, trust_env=False) as http:
        source = Source(http, options.end - 60 * options.minutes, options.end)
        for path in sorted(DASHBOARDS.glob("*.json")):
            if path.stem == "runbooks":
                continue
            figure = draw(json.loads(path.read_text()), source)
            pixels = io.BytesIO()
            figure.savefig(pixels, facecolor=BACKGROUND)
            plt.close(figure)
            target = options.out / f"dashboard-{path.stem}.webp"
            Image.open(pixels).convert("RGB").save(target, quality=82, method=6)
            print(target)


if __name__ == "__main__":
    main()
