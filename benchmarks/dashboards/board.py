"""A dashboard's frame: variables, annotations, links, rows; and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from benchmarks.dashboards.panels import SOURCE, TAG, Panel

PROMETHEUS = "http://localhost:9090"
ANNOTATIONS = {  # name -> query, colour, title of an event
    "Replicas start": (
        "sum by (deployment) (increase(omnitok_replica_starts_total[1m])) > 0",
        "blue",
        "{{deployment}}",
    ),
    "Service starts": ("changes(omnitok_start_time_seconds[1m]) > 0", "purple", "{{instance}}"),
    "Pages": ('ALERTS{alertstate="firing", severity="page"}', "red", "{{alertname}}"),
}
INSTANCE = "label_values(omnitok_start_time_seconds, instance)"


@dataclass(frozen=True)
class Board:
    """A dashboard.

    Args:
        name: of its file, and of its uid after `omnitok-`.
        title: of the dashboard.
        about: its description.
        rows: title -> panels, left to right and downwards.
        variables: name -> PromQL of the values; every board has the data source too.
        tags: by which links find it.
    """

    name: str
    title: str
    about: str
    rows: Mapping[str, Sequence[Panel]]
    variables: Mapping[str, str] = field(default_factory=lambda: {"instance": INSTANCE})
    tags: tuple[str, ...] = (TAG,)
    indent: ClassVar[int | None] = 1  # of the file

    @property
    def uid(self) -> str:
        """Return the end of the dashboard's address."""
        return f"omnitok-{self.name}"

    def render(self) -> str:
        """Return the dashboard's file."""
        board = (
            builder.Dashboard(self.title)
            .uid(self.uid)
            .description(self.about)
            .tags(list(self.tags))
            .readonly()
            .refresh("10s")
            .time("now-30m", "now")
            .timezone("browser")
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .link(_link("Dashboards", dashboard.DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(True))
            .link(_link("Runbooks and logs").url("/d/omnitok-runbooks"))
            .link(_link("Alerts").url(f"{PROMETHEUS}/alerts").target_blank(True))
            .with_variable(builder.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        )
        for name, query in self.variables.items():
            board.with_variable(_variable(name, query))
        for name, (query, color, _) in ANNOTATIONS.items():
            board.annotation(builder.AnnotationQuery().name(name).datasource(SOURCE).expr(query).icon_color(color))
        for title, panels in self.rows.items():
            board.with_row(builder.Row(title))
            for panel in panels:
                board.with_panel(panel)
        document = json.loads(json.dumps(board.build(), cls=JSONEncoder))
        _complete(document)
        return json.dumps(document, indent=self.indent) + "\n"


def _complete(document: dict[str, Any]) -> None:
    """Add what the SDK has no place for: numbers of panels, and the titles of events."""
    for number, panel in enumerate(document["panels"], 1):
        panel["id"] = number
    for annotation in document["annotations"]["list"]:
        annotation["titleFormat"] = ANNOTATIONS[annotation["name"]][2]


def _link(title: str, kind: dashboard.DashboardLinkType = dashboard.DashboardLinkType.LINK) -> builder.DashboardLink:
    return builder.DashboardLink(title).type(kind).include_vars(True).keep_time(True)


def _variable(name: str, query: str) -> builder.QueryVariable:
    everything = dashboard.VariableOption(selected=True, text="All", value="$__all")
    return (
        builder.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(everything)
    )
