"""The stores of jobs against a model of them, with crashes between any two steps and lost workers that report late."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from stores import CrashError, Fuse, Place

from service.jobs.records import NewJob, Quotas
from service.jobs.store import JobStore

QUOTAS = Quotas(jobs=1000, content_bytes=10**6, finished_seconds=1e9, waiting_jobs=1000, lease_seconds=10, tries=3)
TOTAL = 8
FUSES = st.one_of(st.none(), st.integers(0, 14))


@dataclass
class ModelJob:
    status: str = "queued"
    token: int = 0
    lease: float = 0.0
    done: int = 0
    losses: int = 0
    runnable: float = 0.0
    written: bytes = b""
    content: bytes | None = None

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


@dataclass
class Model:
    """The right answers, in plain Python."""

    now: float = 1000.0
    jobs: dict[str, ModelJob] = field(default_factory=dict)

    def held(self, name: str, token: int) -> ModelJob | None:
        job = self.jobs.get(name)
        return job if job and job.status == "in_progress" and job.token == token else None

    def submit(self, name: str) -> None:
        self.jobs.setdefault(name, ModelJob(runnable=self.now))

    def take_back(self) -> None:
        for job in self.jobs.values():
            if job.status == "in_progress" and job.lease < self.now:
                job.written, job.losses = b"", job.losses + 1
                if job.losses >= QUOTAS.tries:
                    job.status, job.losses = "failed", job.losses - 1
                else:
                    job.status, job.done, job.runnable = "queued", 0, self.now

    def claim(self) -> tuple[str, int] | None:
        self.take_back()
        for name, job in self.jobs.items():
            if job.status == "queued" and job.runnable <= self.now:
                job.status, job.token, job.done = "in_progress", job.token + 1, 0
                job.lease = self.now + QUOTAS.lease_seconds
                return name, job.token
        return None

    def renew(self, name: str, token: int, done: int) -> bool:
        if job := self.held(name, token):
            job.lease, job.done = self.now + QUOTAS.lease_seconds, done
        return job is not None

    def release(self, name: str, token: int, seconds: float) -> bool:
        if job := self.held(name, token):
            job.status, job.done, job.runnable, job.written = "queued", 0, self.now + seconds, b""
        return job is not None

    def write(self, name: str, token: int, data: bytes) -> bool:
        if job := self.held(name, token):
            job.written = data
        return job is not None

    def complete(self, name: str, token: int, size: int) -> bool:
        if job := self.held(name, token):
            job.status, job.content, job.done = "completed", job.written, TOTAL
            return True
        known = self.jobs.get(name)
        return known is not None and known.status == "completed" and known.token == token

    def fail(self, name: str, token: int) -> bool:
        if job := self.held(name, token):
            job.status = "failed"
            return True
        known = self.jobs.get(name)
        return known is not None and known.status == "failed" and known.token == token

    def cancel(self, name: str) -> None:
        job = self.jobs.get(name)
        if job and not job.finished:
            job.status = "cancelled"

    def delete(self, name: str) -> None:
        self.jobs.pop(name, None)

    def reopen(self) -> None:
        for job in self.jobs.values():
            if job.status == "in_progress":
                job.lease = max(job.lease, self.now + QUOTAS.lease_seconds)

    def view(self) -> dict[str, Any]:
        return {name: (job.status, job.done, job.losses, job.content) for name, job in self.jobs.items()}


class StoreMachine(RuleBasedStateMachine):
    names = Bundle("names")
    claims = Bundle("claims")

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        place.clear()
        self.fuse, self.model, self.count = Fuse(), Model(), 0
        self.published: dict[str, bytes] = {}
        self.store = self.opened()

    def teardown(self) -> None:
        self.store.close()

    def opened(self) -> JobStore:
        return self.place.open(QUOTAS, lambda: self.model.now, self.fuse)

    def view(self) -> dict[str, Any]:
        jobs = self.store.jobs("", 1000, ascending=True)
        return {job.id: (job.status, job.done, job.losses, self.store.read("", job.id, 0, 1000)) for job in jobs}

    def run(self, fuse: int | None, real: Callable[[], Any], ideal: Callable[[Model], Any]) -> Any:
        """Do a thing to both, perhaps with a crash in the middle: then it has happened as a whole or not at all."""
        before = deepcopy(self.model)
        expected = ideal(self.model)
        self.fuse.left = fuse
        try:
            answer = real()
        except CrashError:
            self.reborn()
            if self.view() != self.model.view():
                self.model = before
                self.model.reopen()
            return None
        finally:
            self.fuse.left = None
        return answer, expected

    def reborn(self) -> None:
        self.fuse.left = None
        self.store.close()
        self.store = self.opened()
        self.model.reopen()

    @rule(target=names, fuse=FUSES)
    def submit(self, fuse: int | None) -> str:
        self.count += 1
        name = f"j{self.count}"
        new = NewJob(name, "", "job", {}, b"work", TOTAL)
        self.run(fuse, lambda: self.store.submit(new), lambda model: model.submit(name))
        return name

    @rule(target=claims, fuse=FUSES)
    def claim(self, fuse: int | None) -> Any:
        self.count += 1
        found = self.run(fuse, lambda: self.store.claim(f"w{self.count}"), lambda model: model.claim())
        if found is None or found[0] is None:
            assert found is None or found[1] is None
            return multiple()
        claim, expected = found
        assert (claim.job.id, claim.token) == expected
        return expected

    @rule(claim=claims, done=st.integers(0, TOTAL), fuse=FUSES)
    def renew(self, claim: tuple[str, int], done: int, fuse: int | None) -> None:
        self.same(fuse, lambda: self.store.renew(*claim, done), lambda model: model.renew(*claim, done))

    @rule(claim=claims, seconds=st.sampled_from([0.0, 5.0]), fuse=FUSES)
    def release(self, claim: tuple[str, int], seconds: float, fuse: int | None) -> None:
        self.same(fuse, lambda: self.store.release(*claim, seconds), lambda model: model.release(*claim, seconds))

    @rule(claim=claims, write_fuse=FUSES, fuse=FUSES)
    def publish(self, claim: tuple[str, int], write_fuse: int | None, fuse: int | None) -> None:
        """Report a result, maybe of a claim that was lost long ago; its bytes name the claim."""
        data = f"{claim[0]} by {claim[1]}".encode()
        for attempt in (write_fuse, None):  # after a crash, the worker repeats the piece
            self.same(attempt, lambda: self.store.write(*claim, 0, data), lambda model: model.write(*claim, data))
        self.same(
            fuse,
            lambda: self.store.complete(*claim, "text/plain", len(data)),
            lambda model: model.complete(*claim, len(data)),
        )

    @rule(claim=claims, fuse=FUSES)
    def fail(self, claim: tuple[str, int], fuse: int | None) -> None:
        self.same(fuse, lambda: self.store.fail(*claim, {"code": "internal"}), lambda model: model.fail(*claim))

    @rule(name=names, fuse=FUSES)
    def cancel(self, name: str, fuse: int | None) -> None:
        self.run(fuse, lambda: self.store.cancel("", name), lambda model: model.cancel(name))

    @rule(name=names, fuse=FUSES)
    def delete(self, name: str, fuse: int | None) -> None:
        self.run(fuse, lambda: self.store.delete("", name), lambda model: model.delete(name))
        if name not in self.model.jobs:
            self.published.pop(name, None)

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.model.now += seconds

    @rule(fuse=FUSES)
    def sweep(self, fuse: int | None) -> None:
        self.run(fuse, self.store.sweep, lambda model: model.take_back())

    @rule()
    def restart(self) -> None:
        self.reborn()

    def same(self, fuse: int | None, real: Callable[[], bool], ideal: Callable[[Model], bool]) -> None:
        if (outcome := self.run(fuse, real, ideal)) is not None:
            assert outcome[0] == outcome[1]

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        assert self.view() == self.model.view()

    @invariant()
    def what_was_published_never_changes(self) -> None:
        for name, (_, _, _, content) in self.view().items():
            if content is not None:
                assert self.published.setdefault(name, content) == content

    @invariant()
    def no_file_is_left_behind(self) -> None:
        jobs = self.model.jobs.items()
        named = {f"{name}-{job.token}" for name, job in jobs if job.status in ("in_progress", "completed")}
        assert self.place.contents() <= named

    @invariant()
    def events_are_few_and_in_order(self) -> None:
        for name in self.model.jobs:
            events = self.store.events("", name, 0)
            assert events is not None
            numbers = [event.number for event in events]
            assert numbers == sorted(set(numbers))
            assert len({event.name for event in events}) == len(events) <= 6


def test_a_store_is_as_its_model(place: Place) -> None:
    bounds = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: StoreMachine(place), settings=bounds)
