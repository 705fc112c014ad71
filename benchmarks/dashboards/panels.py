"""Panels, variables, links and annotations with this project's defaults, on Grafana's Foundation SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "omnitok"
REPLICA, MODEL = 'replica=~"$replica"', 'model=~"$model"'  # labels that the variables choose
GREEN, AMBER, RED = "green", "orange", "red"
QUANTILES = (0.5, 0.95, 0.99)
STAT_WIDTH, STAT_HEIGHT, PANEL_WIDTH, PANEL_HEIGHT = 4, 4, 8, 8

# Colours, and between them the values from which each holds.
Steps = tuple[str] | tuple[str, float, str] | tuple[str, float, str, float, str]
Queries = Mapping[str, str]  # legend, or its start -> PromQL
Panel = Builder[dashboard.Panel]


def total(metric: str, by: str, labels: str = "") -> str:
    """Return the events of a counter since the service started."""
    return f"sum by ({by}) (omnitok_{metric}{_selector(labels)})"


def refused(window: str = "") -> str:
    """Return HAProxy's own refusals by the code of their problem, which `haproxy-start` puts into backends' names.

    Args:
        window: of a rate; none gives the totals.
    """
    counter = 'haproxy_backend_http_responses_total{proxy=~"refused-.+", code=~"[45]xx"}'
    counted = f"rate({counter}[{window}])" if window else counter
    return f'label_replace({counted}, "problem", "$1", "proxy", "refused-(.+)")'


def seen(query: str, label: str) -> str:
    """Return those sums by a label that are above 0, or a single 0 where all are: of many values only some occur."""
    return f'({query}) > 0 or label_replace(sum ({query}) == 0, "{label}", "none", "", "")'


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """Return the events per second of a counter."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate(omnitok_{metric}{_selector(labels)}[$__rate_interval]))"


def gauge(metric: str, by: str, labels: str = "", how: str = "sum") -> str:
    """Return a gauge, over the processes that have one."""
    grouping = f" by ({by})" if by else ""
    return f"{how}{grouping} (omnitok_{metric}{_selector(labels)})"


def quantiles(metric: str, labels: str = "", by: str = "") -> dict[str, str]:
    """Return p50, p95 and p99 of a histogram."""
    group = f"le, {by}" if by else "le"
    return {f"p{q * 100:g}": f"histogram_quantile({q}, {rate(f'{metric}_bucket', group, labels)})" for q in QUANTILES}


def _selector(labels: str) -> str:
    return "{" + ", ".join(filter(None, ['instance=~"$instance"', labels])) + "}"


def series(
    title: str,
    unit: str,
    queries: Queries | str,
    about: str,
    *,
    stacked: bool = False,
    limit: tuple[float, str] | None = None,
    most: float | None = None,
    width: int = PANEL_WIDTH,
) -> Panel:
    """Return a panel of lines over time.

    Args:
        title: of the panel.
        unit: Grafana's name of the unit.
        queries: start of the legend -> PromQL; the labels that it sums by end the legend.
        about: help text of the panel.
        stacked: whether the lines add up.
        limit: value and colour of a dashed line.
        most: upper end of the axis.
        width: columns of 24.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .min(0)
        .datasource(SOURCE)
        .span(width)
        .height(PANEL_HEIGHT)
        .line_width(1)
        .fill_opacity(40 if stacked else 10)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builder.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common_builder.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(common_builder.StackingConfig().mode(common.StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    if limit is not None:
        panel.thresholds(_thresholds(("transparent", *limit)))
        panel.thresholds_style(common_builder.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    named = {"": queries} if isinstance(queries, str) else queries
    return _with_targets(panel, {_legend(name, query): query for name, query in named.items()})


def value(title: str, unit: str, query: str, about: str, steps: Steps, *, none: str = "0", to: str = "") -> Panel:
    """Return one large number, coloured by thresholds.

    Args:
        title: of the panel.
        unit: Grafana's name of the unit.
        query: PromQL of one series.
        about: help text of the panel.
        steps: colours, the first from minus infinity on, and between them the values from which each holds.
        none: what an empty answer means.
        to: uid of the dashboard that shows more.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .datasource(SOURCE)
        .span(STAT_WIDTH)
        .height(STAT_HEIGHT)
        .no_value(none)
        .thresholds(_thresholds(steps))
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .graph_mode(common.BigValueGraphMode.AREA)
        .reduce_options(common_builder.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )
    if to:
        link = builder.DashboardLink("More").type(dashboard.DashboardLinkType.LINK)
        panel.links([link.url(f"/d/{to}").include_vars(True).keep_time(True)])
    return _with_targets(panel, {title: query})


def heat(title: str, unit: str, query: str, about: str, *, width: int = PANEL_WIDTH) -> Panel:
    """Return the distribution of a histogram over time; `query` sums buckets by `le`."""
    panel = (
        heatmap.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .span(width)
        .height(PANEL_HEIGHT)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .unit(unit)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(32))
    )
    return _with_targets(panel, {"{{le}}": query}, PromQueryFormat.HEATMAP)


def rows_of(
    title: str,
    query: str,
    about: str,
    columns: Sequence[str],
    *,
    links: Mapping[str, str] | None = None,
    width: int = PANEL_WIDTH,
) -> Panel:
    """Return a table of the labels of an instant vector; `links` leads from a column to an address."""
    hidden = dict.fromkeys(("Time", "__name__", "Value"), True)
    organize = {"excludeByName": hidden, "indexByName": {name: at for at, name in enumerate(columns)}}
    panel = (
        table.Panel()
        .title(title)
        .description(about)
        .unit("short")
        .datasource(SOURCE)
        .span(width)
        .height(PANEL_HEIGHT)
        .no_value("none")
        .with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=organize))
    )
    for column, url in (links or {}).items():
        link = {"title": "Open", "url": url}
        panel.override_by_name(column, [dashboard.DynamicConfigValue(id_val="links", value=[link])])
    target = prometheus.Dataquery().expr(query).instant().format(PromQueryFormat.TABLE).ref_id("A").datasource(SOURCE)
    return panel.with_target(target)


def note(title: str, content: str, *, width: int = 24, height: int = PANEL_HEIGHT) -> Panel:
    """Return a panel of Markdown."""
    return (
        text.Panel().title(title).description(title).content(content).mode(TextMode.MARKDOWN).span(width).height(height)
    )


def _legend(name: str, query: str) -> str:
    if "{{" in name:
        return name
    grouping = re.search(r" by \(([^)]*)\)", query)
    labels = grouping[1].split(", ") if grouping else []
    return " ".join([name, *(f"{{{{{label}}}}}" for label in labels if label != "le")]).strip()


def _with_targets(panel: Any, queries: Queries, form: PromQueryFormat = PromQueryFormat.TIME_SERIES) -> Any:
    for index, (legend, query) in enumerate(queries.items()):
        target = prometheus.Dataquery().expr(query).range().format(form).legend_format(legend)
        panel.with_target(target.ref_id(chr(ord("A") + index)).datasource(SOURCE))
    return panel


def _thresholds(steps: Steps) -> builder.ThresholdsConfig:
    values = (None, *steps[1::2])
    levels = [dashboard.Threshold(value=at, color=color) for at, color in zip(values, steps[::2], strict=True)]
    return builder.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(levels)
