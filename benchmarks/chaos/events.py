"""Things that happen to a service: a process is killed, the number of replicas changes, all replicas are replaced."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.service.cpu import snapshot
from service.settings import Settings

REPLACED_SECONDS = 60.0

Deploy = Callable[[Settings], None]


@dataclass(frozen=True)
class Kill:
    """SIGKILL of one process.

    Args:
        name: of the process, as `cpu.snapshot` has it.
        on_demand: another comes only once a request needs it, which may be never.
    """

    name: str
    on_demand: bool = False

    @property
    def title(self) -> str:
        """Return a phrase for the table."""
        return f"SIGKILL of {self.name}"

    def happen(self, root: int, rng: random.Random, settings: Settings, deploy: Deploy) -> Settings:
        """Kill a process that `rng` chooses, and wait for another in its place; return the settings in force.

        Raises:
            ProcessLookupError: there is none.
            TimeoutError: none comes.
        """
        before = _named(root, self.name)
        if not before:
            raise ProcessLookupError(
                f"No process {self.name} runs. Leave its event out, or start the service with one."
            )
        victim = rng.choice(sorted(before))
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + REPLACED_SECONDS
        while not _named(root, self.name) - before:
            if time.monotonic() > deadline:
                if self.on_demand:
                    break
                raise TimeoutError(f"No process {self.name} came in place of {victim}; there were {sorted(before)}.")
            time.sleep(0.1)
        return settings


@dataclass(frozen=True)
class Change:
    """A deployment with other settings, which Ray Serve rolls out.

    Args:
        title: a phrase for the table.
        field, values: the setting and its values; the one that is not in force is taken.
    """

    title: str
    field: str
    values: tuple[int, int]

    def happen(self, root: int, rng: random.Random, settings: Settings, deploy: Deploy) -> Settings:
        """Deploy, and return the settings in force."""
        one, other = self.values
        changed = settings.model_copy(update={self.field: other if getattr(settings, self.field) == one else one})
        deploy(changed)
        return changed


Event = Kill | Change

PROCESSES = ("Tokenizer", "Ingress", "haproxy", "HAProxyManager", "ServeController")
CHANGES = (
    Change("one tokenizer more or less", "tokenizer_replicas", (2, 3)),
    Change("one ingress more or less", "ingress_replicas", (2, 3)),
    Change("a rolling update of all replicas", "max_batch_requests", (32, 31)),
)
WITH_JOBS = (Kill("JobOwner"),)  # where a generator is served
EVENTS: tuple[Event, ...] = (*(Kill(name) for name in PROCESSES), Kill("media worker", on_demand=True), *CHANGES)


def _named(root: int, name: str) -> set[int]:
    return {pid for pid, process in snapshot(root).items() if process.name == name}
