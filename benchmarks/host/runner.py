"""Steps one after the other within a time: services that start and end, results on disk after each, a report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.host.machine import write_bundles
from benchmarks.host.steps import Place, Serving, Step
from benchmarks.rows import RowFile, markdown, read_rows
from benchmarks.service.__main__ import VOID
from benchmarks.service.process import (
    ROOT,
    StartError,
    kill_tree,
    log_tail,
    pinned,
    python_path,
    serve,
    stop,
    wait_ready,
)
from model.atomic_write import replacing

START_SECONDS = 300.0  # with kernels that have to be compiled
STOP_SECONDS = 20.0  # kept back for the end of the service
LIMIT, LIMIT_SECONDS = 2.0, 20.0  # times its expected seconds, and more, that a step may take
MADE, FAILED, LATE, NOT_BEGUN = "done", "failed", "out of time", "not begun"


@dataclass(frozen=True)
class Outcome:
    """The end of a step.

    Args:
        step: its name.
        state: `done`, `failed`, `out of time` or `not begun`.
        seconds: that it took.
        reason: of another state than `done`.
        logs: ends of the logs of the step and of the service then.
    """

    step: str
    state: str
    seconds: float
    reason: str = ""
    logs: str = ""


class Runner:
    """A runner of steps, and of the service that each needs.

    Args:
        place: the machine.
        steps: that it can do.
        ports: of the service, as variables.
        deadline: of `time.monotonic`, when all must have ended.
        heading: first lines of the report.
    """

    def __init__(
        self, place: Place, steps: Sequence[Step], ports: dict[str, str], deadline: float, heading: str
    ) -> None:
        self._place, self._steps, self._deadline, self._heading = place, steps, deadline, heading
        # Ray's sockets are in it, so its path is short.
        self._ray = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))
        self._environment = ports | python_path() | {"RAY_TMPDIR": str(self._ray)}
        self._log = place.out / "service.log"
        self._service: subprocess.Popen[bytes] | None = None
        self._serving: Serving | None = None
        self._broken: dict[Serving, str] = {}
        self._starts = RowFile(place.out / "starts.json")
        self._starts.rows = read_rows(place.out / "starts.json")
        self.outcomes: dict[str, Outcome] = {}

    def run(self, parts: Collection[str]) -> bool:
        """Run the steps of these parts that are not done yet, and return whether all are done."""
        chosen = [step for step in self._steps if step.part in parts]
        try:
            for step in chosen:
                path = self._place.out / step.name / "outcome.json"
                outcome = Outcome(**json.loads(path.read_text())) if path.exists() else None
                if outcome is None or outcome.state != MADE:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    outcome = self._run(step)
                    if outcome.state != NOT_BEGUN:  # or the reason and the logs of an earlier failure would be lost
                        with replacing(path) as fresh:
                            fresh.write_text(json.dumps(asdict(outcome), indent=1))
                    print(f"{step.name}: {outcome.state} after {outcome.seconds:.0f} s", flush=True)
                self.outcomes[step.name] = outcome
                (self._place.out / "report.md").write_text(self.report(chosen))
        finally:
            self._end_service()
            shutil.rmtree(self._ray, ignore_errors=True)
        return all(one.state == MADE for one in self.outcomes.values())

    def report(self, chosen: Sequence[Step]) -> str:
        """Return the report on what was run so far, now or earlier, Markdown."""
        lines = [self._heading, "", *markdown(self._starts.rows)]
        lines += ["", *markdown([{"step": step.name} | row for step in self._steps for row in self._rows(step)])]
        outcomes = [self.outcomes.get(step.name, Outcome(step.name, NOT_BEGUN, 0.0)) for step in chosen]
        missing = [one for one in outcomes if one.state != MADE]
        lines += ["", "Unfinished:" if missing else "All is done."]
        for one in missing:
            lines.append(f"- {one.step}: {one.state}{f', {one.reason}' if one.reason else ''}")
        return "\n".join(lines) + "\n"

    def _run(self, step: Step) -> Outcome:
        if (late := self._too_late(step)) is not None:
            return late
        try:
            self._need(step.serving)
        except StartError as error:
            self._end_service()
            if step.serving is not None:
                self._broken[step.serving] = str(error)
            return Outcome(step.name, FAILED, 0.0, "the service did not start", str(error))
        if (late := self._too_late(step)) is not None:  # the service took its time; rows of an earlier call stay
            return late
        begun = time.monotonic()
        log = self._place.out / step.name / "log"
        limit = max(1.0, min(LIMIT * step.seconds + LIMIT_SECONDS, self._left()))
        self._place.rows(step.name).unlink(missing_ok=True)
        cpus = self._place.cpus.load if step.serving else None
        with log.open("wb") as output, pinned(cpus):
            process = subprocess.Popen(
                [sys.executable, *step.arguments],
                cwd=ROOT,
                env=os.environ | self._environment,
                stdout=output,
                stderr=output,
            )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            state, reason = LATE, f"it was stopped after {limit:.0f} s"
        else:
            # A run whose load began late says so in its row, and would again.
            is_void = status == VOID and any("void" in row.get("errors", "") for row in self._rows(step))
            is_done = status == 0 or is_void
            state, reason = (MADE, "") if is_done else (FAILED, f"status {status}")
        finally:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()
        logs = "" if state == MADE else f"{log_tail(log)}\nservice:\n{log_tail(self._log)}"
        return Outcome(step.name, state, time.monotonic() - begun, reason, logs)

    def _rows(self, step: Step) -> list[dict[str, str]]:
        return read_rows(self._place.rows(step.name))

    def _too_late(self, step: Step) -> Outcome | None:
        if (left := self._left()) >= step.seconds:
            return None
        reason = f"it takes {step.seconds:.0f} s, of which {max(0.0, left):.0f} are left"
        return Outcome(step.name, NOT_BEGUN, 0.0, reason)

    def _left(self) -> float:
        return self._deadline - STOP_SECONDS - time.monotonic()

    def _need(self, serving: Serving | None) -> None:
        """Have this service run, and no other.

        Raises:
            StartError: it does not start, now or before.
        """
        is_running = self._service is not None and self._service.poll() is None
        if serving == self._serving and (is_running or serving is None):
            return
        self._end_service()
        if serving is None:
            return
        if (reason := self._broken.get(serving)) is not None:
            raise StartError(reason)
        place, begun = self._place, time.monotonic()
        write_bundles(place.out / "bundles", place.config, serving.generates)
        written = time.monotonic()
        self._service = serve(self._log, self._environment | place.variables(serving), place.cpus.service)
        wait_ready(place.url, self._service, self._log, max(1.0, min(START_SECONDS, self._left())))
        self._serving = serving
        ready = f"{time.monotonic() - written:.1f}"
        self._starts.add(
            {"service": serving.name, "bundles written in, s": f"{written - begun:.1f}", "ready after, s": ready}
        )

    def _end_service(self) -> None:
        if self._service is not None:
            stop(self._service, STOP_SECONDS)
        self._service = self._serving = None
