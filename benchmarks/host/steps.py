"""The steps of a run: a command of another benchmark each, and the service that it needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.host.machine import Split
from model.tokenizer.config import CONFIGS

PARTS = (
    *("img", "one", "jpeg", "clip", "bulk", "overload", "profile"),
    *("generate", "streams", "dashboards", "tokenize", "ranks"),
)
CPU_SCALE = 1 / 8  # of connections and requests, where no GPU is
WARM_UP_SECONDS = 2.0
BEGIN_SECONDS = 10.0  # of a command, before it measures
OBJECTIVE_MS = 100
LATE_MS = 1000  # by which requests of an overload may begin late
MULTIPLES = (3.0, 5.0)  # of the peak, as overload
OPEN_SHARE = 0.7  # of the peak
DASHBOARD_PARTS = 10  # lengths of a part, since Prometheus looks every ten seconds
DRAW_SECONDS = 40.0
RAY_SECONDS = 30.0  # from the start of Ray Data to tokenizers that are ready
QUEUE_SETTING = "max_queue_seconds"
FRAMES_PER_SECOND = 100  # of a part, in a streamed video


@dataclass(frozen=True)
class Serving:
    """A service that steps share.

    Args:
        name: for people.
        generates: with the generator.
        queue_seconds: longest wait in its queue.
    """

    name: str
    generates: bool = False
    queue_seconds: float = 2.0


ENCODING = Serving("encoding")
SHORT_QUEUE = Serving("encoding, a queue of 0.06 s", queue_seconds=0.06)
GENERATING = Serving("generating", generates=True)


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        part: that it belongs to.
        name: of its folder.
        arguments: of Python.
        seconds: that it takes, as far as is known.
        serving: the service that it calls; None has the machine for itself.
    """

    part: str
    name: str
    arguments: tuple[str, ...]
    seconds: float
    serving: Serving | None = ENCODING


@dataclass(frozen=True)
class Place:
    """The machine and the length of the parts.

    Args:
        out: folder of the run.
        url: of the service.
        config: geometry of the tokenizers.
        gpus: to use.
        cpus: of service and load.
        seconds: of each load.
        settings: of the service, by name, which win over those of a `Serving`.
    """

    out: Path
    url: str
    config: str
    gpus: int
    cpus: Split
    seconds: float
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def streaming_model(self) -> str:
        """Return the tokenizer that streams: the one for all, or another one of the same size."""
        return "random" if CONFIGS[self.config].streams else "streaming"

    def variables(self, serving: Serving) -> dict[str, str]:
        """Return the variables of a service."""
        bundles = self.out / "bundles"
        names = dict.fromkeys(("random", self.streaming_model))
        values = {
            "bundles": json.dumps([str(bundles / name) for name in names]),
            "generators": json.dumps([str(bundles / "generator")] if serving.generates else []),
            QUEUE_SETTING: f"{serving.queue_seconds:g}",
            "dtype": "bfloat16" if self.gpus else "float32",
            "device": "cuda" if self.gpus else "cpu",
            "tokenizer_replicas": str(max(1, self.gpus)),
            "ingress_replicas": str(self.cpus.ingress_replicas),
        } | self.settings
        return {f"OMNITOK_{name.upper()}": value for name, value in values.items()}

    def queue_seconds(self, serving: Serving) -> float:
        """Return the longest wait in the queue of a service."""
        return float(self.settings.get(QUEUE_SETTING, serving.queue_seconds))

    def scaled(self, numbers: Sequence[int]) -> list[int]:
        """Return numbers of connections or requests for this machine, given those of one GPU."""
        scale = self.gpus or CPU_SCALE
        return sorted({max(1, int(scale * number)) for number in numbers})

    def load(
        self,
        part: str,
        mix: str,
        connections: Sequence[int],
        of_peak: Sequence[float] = (),
        serving: Serving = ENCODING,
    ) -> Step:
        """Return a step of `benchmarks.service`."""
        name = f"{part}-{mix}-{self.queue_seconds(serving):g}s" if part == "overload" else part
        warm_up = min(WARM_UP_SECONDS, self.seconds)
        options: list[tuple[str, object]] = [
            *(("--url", self.url), ("--mix", mix), ("--seconds", self.seconds), ("--warm-up", warm_up)),
            *(("--objective-ms", OBJECTIVE_MS), ("--out", self.out / name)),
            *(("--processes", min(len(self.cpus.load), min(connections))),),
            *(("--connections", number) for number in connections),
            *(("--of-peak", times) for times in of_peak),
        ]
        if part == "overload":
            options.append(("--late-ms", LATE_MS))
        words = (str(word) for option in options for word in option)
        seconds = BEGIN_SECONDS + (len(connections) + len(of_peak)) * (self.seconds + warm_up + 2.0)
        return Step(part, name, ("-m", "benchmarks.service", *words, "--no-plots"), seconds, serving)

    def call(self, part: str, module: str, seconds: float, serving: Serving, *words: object) -> Step:
        """Return a step of another module that calls a service; its folder is one of its options."""
        arguments = ("-m", module, "--url", self.url, *map(str, words))
        return Step(part, part, arguments, BEGIN_SECONDS + seconds, serving)

    def alone(self, part: str, name: str, seconds: float, *words: object) -> Step:
        """Return a step of a module that has the machine for itself."""
        return Step(part, name, ("-m", *map(str, words)), BEGIN_SECONDS + seconds, None)

    def rows(self, name: str) -> Path:
        """Return the file of a step's rows."""
        return self.out / name / "rows.json"


def steps(place: Place) -> Iterator[Step]:
    """Yield all steps that this machine can do, those of one service one after the other."""
    yield place.load("img", "img256", place.scaled((128, 256)), (OPEN_SHARE,))
    yield place.load("one", "img256", (1,))
    yield place.load("jpeg", "jpeg256", place.scaled((64,)), (OPEN_SHARE,))
    yield place.load("clip", "clip17", place.scaled((96,)), (OPEN_SHARE,))
    yield place.load("bulk", "bulk256", place.scaled((8, 16, 32)))
    yield _profile(place)
    yield _streams(place)
    # A setting takes the place of both queues, and its service is that of the steps before.
    for serving in (ENCODING,) if QUEUE_SETTING in place.settings else (ENCODING, SHORT_QUEUE):
        is_long = place.queue_seconds(serving) > SHORT_QUEUE.queue_seconds
        connections = place.scaled((128 if is_long else 64,))  # refuses nobody at the peak
        for mix in ("img256", "jpeg256"):
            yield place.load("overload", mix, connections, MULTIPLES, serving)
    yield _generation(place)
    yield _dashboards(place)
    yield from _tokenize(place)
    if place.gpus > 1:
        launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", place.gpus)
        yield place.alone("ranks", "ranks", 90, *launcher, "-m", "benchmarks.training_ranks", place.rows("ranks"))


def _profile(place: Place) -> Step:
    options = ("--seconds", place.seconds, "--connections", *place.scaled((128,)), "--out", place.out / "profile")
    return place.call("profile", "benchmarks.service.profile", place.seconds + 15, ENCODING, *options)


def _generation(place: Place) -> Step:
    crowds = (word for number in place.scaled((16, 64, 128)) for word in ("--at-once", number))
    options = ("--seconds", place.seconds, "--out", place.rows("generate"), *crowds)
    return place.call("generate", "benchmarks.service.generation", 10 * place.seconds, GENERATING, *options)


def _streams(place: Place) -> Step:
    frames = int(FRAMES_PER_SECOND * place.seconds)
    at_once = (word for number in place.scaled((1, 4, 8)) for word in ("--at-once", number))
    options = ("--model", place.streaming_model, "--frames", frames, "--out", place.rows("streams"), *at_once)
    return place.call("streams", "benchmarks.service.streams", 5 * place.seconds, ENCODING, *options)


def _dashboards(place: Place) -> Step:
    seconds = DASHBOARD_PARTS * place.seconds
    options = ("--seconds", seconds, "--connections", *place.scaled((16,)), "--out", place.out / "dashboards")
    return place.call("dashboards", "benchmarks.dashboards.live", seconds + DRAW_SECONDS, GENERATING, *options)


def _tokenize(place: Place) -> Iterator[Step]:
    words = ("benchmarks.bulk", "--config", place.config, "--seconds", place.seconds, "--work", place.out / "data")
    yield place.alone("tokenize", "tokenize", 6 * place.seconds + 40, *words, "--out", place.rows("tokenize"))
    for number in range(1, max(1, place.gpus) + 1):
        name = f"tokenize-ray-{number}"
        seconds = 2 * (place.seconds + RAY_SECONDS)
        yield place.alone("tokenize", name, seconds, *words, "--gpus", number, "--out", place.rows(name))
