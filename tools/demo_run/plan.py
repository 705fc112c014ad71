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
    "{python} -m torch.distributed.run --nnodes 1 --nproc-per-node {ranks} "
    "--master-addr 127.0.0.1 --master-port {port} -m {training} "
)
DEMO = "train demo --data data/demo --perceptual-weights networks/vgg16.safetensors {common} "


@dataclass(frozen=True)
class Job:
    """A program of the run.

    Args:
        name: of its log.
        command: with places for `{python}`, `{training}`, `{common}`, `{seconds}` and others that `host.py` fills.
        lanes: GPUs that it has to itself among jobs with lanes, which start in the order of the plan.
        gpus: those that it sees, where it has no lane.
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
    gpus: str = ""
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    seconds: float = 0
    startup: float = 30
    out: str = ""
    retry: str = ""
    until: float = math.inf
    nice: int = 0


def _build(data: str, sets: tuple[str, ...] = ()) -> str:
    chosen = " ".join(f"--set {name}" for name in sets)
    return ONE + f"data build {data} --out data/{data} --cache cache {{scale}} {chosen}"


def _warm(name: str, gpus: str, command: str = ONE) -> Job:
    return Job(f"warm-{name}", command.replace("{training}", "tools.demo_run.warm") + name, gpus=gpus)


def _stage(name: str, run: str, gpu: int, seconds: float, *needs: str) -> Job:
    command = ONE + DEMO + f"--stage {name} --out runs/{run} --seconds {{seconds}}"
    return Job(name, command, (gpu,), needs=needs, seconds=seconds, out=f"runs/{run}")


def _codes(name: str, run: str, gpus: str, stage: str) -> Job:
    command = ONE + f"data codes data/play --tokenizer runs/{run}/bundle --out runs/codes-{name} --no-flips"
    return Job(f"codes-{name}", command, gpus=gpus, needs=("play", stage), retry=command)


def _generator(recipe: str, gpu: int, codes: str, run: str, seconds: float) -> tuple[Job, Job]:
    tokenizer = f"--tokenizer runs/{run}/bundle"
    train = f"train {recipe} --data runs/codes-{codes} --held-out data/play/held-out {tokenizer} --out runs/{recipe} "
    name = recipe.removesuffix("-demo")
    measure = f"evaluate runs/{recipe}/{recipe} data/play {tokenizer} --held-out data/play/held-out --items {{items}} "
    measure += f"--networks networks --out runs/{recipe}/evaluation"
    return (
        Job(
            name, ONE + train + "{rare} --seconds {seconds}", (gpu,), needs=(f"codes-{codes}",), seconds=seconds,
            startup=45, out=f"runs/{recipe}",
        ),
        Job(f"measure-{name}", ONE + measure, (gpu,), needs=(name,), startup=70),
    )  # fmt: skip


def plan() -> tuple[Job, ...]:
    """Return the jobs, those of a lane in their order."""
    long = DEMO + "--stage long --from begin --out runs/demo --seconds {seconds}"
    return (
        # compiled on synthetic data while packs travel: four shapes of batch a stage
        _warm("long", "0,1", BOTH),
        _warm("sharp", "1"),
        _warm("kl", "0"),
        Job("record-games", _build("demo", GAMES), needs=("games",), until=300, nice=5),
        Job("record-walks", _build("demo", WALKS), needs=("walks",), until=300, nice=5),
        Job("cut-photographs", _build("demo", CROPS), needs=("photographs",), until=330, nice=5),
        Job(
            "long", BOTH + long, (0, 1), needs=("begin",), seconds=300, out="runs/demo", retry=ONE + long,
            after=("warm-long", "record-games", "record-walks", "cut-photographs"),
        ),
        # beside `long`, which leaves the processors idle
        Job("play", _build("play"), needs=("games",), after=("record-games",), until=700, nice=10),
        Job("copy", "cp -rT runs/demo runs/sharp", needs=("long",)),
        _codes("long", "demo/3-long", "1", "long"),
        _stage("kl", "demo", 0, 330, "copy"),
        _stage("sharp", "sharp", 1, 560, "copy", "networks"),
        _codes("kl", "demo/5-kl", "0", "kl"),
        _stage("kl-wide", "demo", 0, 240, "kl"),
        *_generator("lm-demo", 1, "long", "demo/3-long", 300),
        *_generator("latte-demo", 0, "kl", "demo/5-kl", 300),
    )  # fmt: skip


# Folders of bundles that are brought home, in the order of their worth: name at home, folder, folder while unfinished.
BUNDLES = {
    "long": ("runs/demo/3-long/bundle", "runs/demo/3-long/latest"),
    "kl": ("runs/demo/5-kl/bundle", "runs/demo/5-kl/latest"),
    "sharp": ("runs/sharp/4-sharp/bundle", "runs/sharp/4-sharp/latest"),
    "lm-demo": ("runs/lm-demo/lm-demo", "runs/lm-demo/1-lm/latest"),
    "latte-demo": ("runs/latte-demo/latte-demo", "runs/latte-demo/1-latte/latest"),
    "kl-wide": ("runs/demo/6-kl-wide/bundle", "runs/demo/6-kl-wide/latest"),
}
RECORDS = (
    "log", "status.json", "COMMIT", "logs/*.log", "runs/*/run.json", "runs/*/*/metrics.csv", "runs/*/evaluation/*",
    "runs/*/*/samples/*.webp",
)  # fmt: skip
