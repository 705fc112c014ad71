"""The jobs of the run: what each waits for, which GPUs it has, how long it may take.

Times are seconds on the host's clock, which starts with the first call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GAMES = ("train/procgen-128", "train/procgen-256", "train/procgen-long-128", "held-out/procgen-128")
WALKS = ("train/vizdoom-128", "train/vizdoom-long-128", "held-out/vizdoom-128")
CROPS = (
    "train/photographs-256", "train/photographs-384", "train/photographs-512", "train/releases-256",
)  # fmt: skip
ONE = "{python} -m {training} "
BOTH = (
    "{python} -m torch.distributed.run --nnodes 1 --nproc-per-node 2 "
    "--master-addr 127.0.0.1 --master-port {port} -m {training} "
)
MEASURE_S = 80  # curves of sampling and the evaluation of a generator
DEMO = "train demo --data data/demo --perceptual-weights networks/vgg16.safetensors {common} "


@dataclass(frozen=True)
class Job:
    """A program of the run.

    Args:
        name: of its log.
        command: with places for `{python}`, `{training}`, `{common}`, `{seconds}` and others that `host.py` fills.
        lanes: queues in which it waits for the jobs before it: a GPU each, or halves of one.
        gpus: those that it sees, where it has no lane; a host of one has no other.
        needs: names of jobs that must have succeeded, and of groups of the packs that must have arrived.
        after: names of jobs that must have ended, well or not.
        seconds: length, as a share of what its lane has left; a job without lanes has no length.
        startup: seconds before and after its training: imports, upload of the data, bundle.
        out: folder of the run that it can resume.
        retry: command of a second try; the same if empty.
        until: time at which it is ended, done or not.
        nice: of the process.
    """

    name: str
    command: str
    lanes: tuple[int, ...] = ()
    gpus: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    seconds: float = 0
    startup: float = 30
    out: str = ""
    retry: str = ""
    until: float = math.inf
    nice: int = 0


def _build(data: str, scale: str, kind: str = "demo", sets: tuple[str, ...] = ()) -> str:
    chosen = " ".join(f"--set {name}" for name in sets)
    return ONE + f"data build {kind} --out data/{data} --cache cache {scale} {chosen}"


def _warm(name: str, gpus: tuple[int, ...], command: str = ONE) -> Job:
    return Job(f"warm-{name}", command.replace("{training}", "tools.demo_run.warm") + name, gpus=gpus)


def _stage(name: str, run: str, lane: int, seconds: float, *needs: str) -> Job:
    command = ONE + DEMO + f"--stage {name} --out runs/{run} --seconds {{seconds}}"
    return Job(name, command, (lane,), needs=needs, seconds=seconds, out=f"runs/{run}")


def _codes(name: str, run: str, gpu: int) -> Job:
    command = ONE + f"data codes data/play --tokenizer runs/{run}/bundle --out runs/codes-{name} --no-flips"
    return Job(f"codes-{name}", command, gpus=(gpu,), needs=("play", name))


def _generator(recipe: str, lane: int, codes: str, run: str, seconds: float) -> tuple[Job, Job]:
    tokenizer = f"--tokenizer runs/{run}/bundle"
    train = f"train {recipe} --data runs/codes-{codes} --held-out data/play/held-out {tokenizer} --out runs/{recipe} "
    name = recipe.removesuffix("-demo")
    measure = ONE.replace("{training}", "tools.demo_run.measure") + f"{recipe} runs/{run}/bundle {{items}}"
    return (
        Job(
            name, ONE + train + "{rare} --seconds {seconds}", (lane,), needs=(f"codes-{codes}",), seconds=seconds,
            startup=45, out=f"runs/{recipe}",
        ),
        Job(f"measure-{name}", measure, (lane,), needs=(name, "networks"), startup=MEASURE_S),
    )  # fmt: skip


def _measure(name: str, run: str, gpu: int) -> Job:
    """Measure a tokenizer, beside the training of the next stage."""
    command = ONE + f"evaluate runs/{run}/bundle full --networks networks --out runs/evaluation-{name} {{few}}"
    return Job(f"measure-{name}", command, gpus=(gpu,), needs=(name, "link", "networks"))


def plan(gpus: int) -> tuple[Job, ...]:
    """Return the jobs for a host of one or two GPUs, those of a lane in their order.

    On one GPU both lanes share it, so that none waits for a start. On two, `long` trains on both, and `sharp` has what
    time the others leave.
    """
    two = gpus == 2
    wide = BOTH if two else ONE
    long = DEMO + "--stage long --from begin --out runs/demo --seconds {seconds}"
    sharp = (
        Job("copy", "cp -rT runs/demo runs/sharp", needs=("long",)),
        _stage("sharp", "sharp", 1, 460, "copy", "networks"),
    )  # fmt: skip
    return (
        # compiled on synthetic data while packs travel: four shapes of batch a stage
        _warm("long", (0, 1), wide),
        _warm("kl", (0,)),
        *((_warm("sharp", (1,)),) if two else ()),
        Job("record-games", _build("demo", "{demo}", sets=GAMES), needs=("games",), until=300, nice=5),
        Job("record-walks", _build("demo", "{demo}", sets=WALKS), needs=("walks",), until=300, nice=5),
        Job("cut-photographs", _build("demo", "{whole}", sets=CROPS), needs=("photographs",), until=330, nice=5),
        Job(
            "long", wide + long, (0, 1), needs=("begin",), seconds=330, out="runs/demo", retry=ONE + long,
            after=("warm-long", "record-games", "record-walks", "cut-photographs"),
        ),
        # beside `long`, which leaves the processors idle
        Job(
            "measured-games", _build("whole", "{whole}", sets=("held-out/procgen-128", "held-out/vizdoom-128")),
            needs=("walks", "games"), after=("record-games", "record-walks"), nice=5,
        ),
        Job(
            "play", _build("play", "{play}", "play"), needs=("games",), after=("measured-games",), until=700, nice=10,
        ),
        Job("link", "cp -rT data/whole full", needs=("measured-games", "measured")),
        _measure("long", "demo/3-long", 0),
        _codes("long", "demo/3-long", 1),
        _stage("kl", "demo", 0, 460, *(("copy",) if two else ("long",))),
        _measure("kl", "demo/5-kl", 0),
        _codes("kl", "demo/5-kl", 0),
        # alone on its GPU it needs fewer
        *_generator("lm-demo", 1, "long", "demo/3-long", 300 if two else 500),
        *(sharp if two else ()),
        *_generator("latte-demo", 0, "kl", "demo/5-kl", 300),
    )  # fmt: skip


# Folders of bundles that are brought home, in the order of their worth: name at home, folder, folder while unfinished.
BUNDLES = {
    "long": ("runs/demo/3-long/bundle", "runs/demo/3-long/latest"),
    "kl": ("runs/demo/5-kl/bundle", "runs/demo/5-kl/latest"),
    "sharp": ("runs/sharp/4-sharp/bundle", "runs/sharp/4-sharp/latest"),
    "lm-demo": ("runs/lm-demo/lm-demo", "runs/lm-demo/1-lm/latest"),
    "latte-demo": ("runs/latte-demo/latte-demo", "runs/latte-demo/1-latte/latest"),
}
RECORDS = (
    "log", "status.json", "COMMIT", "logs/*.log", "runs/*/run.json", "runs/*/*/metrics.csv",
    "runs/*/evaluation/*", "runs/evaluation-*/*",
    "runs/*/*/samples/*.webp",
)  # fmt: skip
