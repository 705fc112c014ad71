"""Who may import whom. Imports are read from the source, lazy ones included; the client is also run without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "media", "model", "training", "service")
MAY_IMPORT = {
    "kernels": {"kernels"},
    "media": {"media"},
    "model": {"kernels", "media", "model"},
    "training": {"kernels", "media", "model", "training"},
    "service": {"kernels", "media", "model", "service"},
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
# Folders of the repository that no package may import, since none of them is installed with it.
OUTSIDE = {"benchmarks", "bundles", "deploy", "docs", "examples", "tests"}
# Parts of the service, and the other parts that each may import; what is not named here may import none.
SERVICE = {
    "formats": {"errors", "types"},
    "types": {"chunks", "errors", "flow"},
    "sandbox": {"allocator", "chunks", "drain_rate", "errors", "held_directory", "settings"},
    "scheduling": {"drain_rate", "errors", "flow", "types"},
    "link": {"errors", "failures", "flow", "trace", "types"},
    "operations": {"chunks", "errors", "formats", "sandbox", "settings", "types"},
    "jobs": {"errors", "flow", "formats", "operations", "settings", "types"},
    "engine": {"chunks", "sandbox", "scheduling", "types"},
    "metrics": {"errors", "failures", "finished_request", "jobs", "scheduling", "types"},
    "tracing": {"trace"},
    "in_process": {"chunks", "errors", "flow", "jobs", "operations", "scheduling", "settings", "types"},
    "keys": {"loopback", "settings"},
    "api": {
        *("chunks", "drain_rate", "errors", "failures", "finished_request", "flow", "formats", "jobs", "keys"),
        *("offload", "operations", "sandbox", "settings", "shared_task", "stored_answer", "trace", "types"),
    },
    "cluster": {
        *("allocator", "api", "chunks", "drain_rate", "engine", "errors", "failures", "flow"),
        *("held_directory", "in_process", "jobs", "link", "loopback", "metrics", "offload"),
        *("sandbox", "scheduling", "settings", "shared_task", "stored_answer", "trace", "tracing", "types"),
    },
    "client": {"errors", "formats", "loopback", "types"},
    "bulk": {"allocator", "chunks", "engine", "errors", "formats", "operations", "scheduling", "settings", "types"},
    "cli": {
        *(
            "bulk",
            "client",
            "cluster",
            "engine",
            "errors",
            "formats",
            "in_process",
            "operations",
            "sandbox",
            "scheduling",
        ),
        *("keys", "settings", "types"),
    },
}
# Libraries that parts of the service keep to themselves, and modules that may import them.
KEEPERS = {
    "ray": ("service.bulk.pipeline.", "service.cluster."),
    "pyarrow": ("service.bulk.reading.", "service.bulk.sources."),
    "torch": ("service.engine.", "service.cli."),
    "av": ("service.bulk.decoder.", "service.sandbox.worker"),
    "fastapi": ("service.api.",),
    "starlette": ("service.api.",),
    "prometheus_client": ("service.metrics.",),
    "opentelemetry": ("service.tracing",),
    "redis": ("service.jobs.redis_store",),
    "httpx": ("service.client.", "service.cluster.app."),
    "pydantic_settings": ("service.settings",),
    "msgpack": ("service.formats.msgpack",),
    "safetensors": ("service.formats.safetensors",),
}
# And the command, which works offline.
USES_MODEL = ("service.bulk.", "service.engine.", "service.cli.")
# Modules outside `training.tokenizer` that know it: the command names the task of a run, and evaluation counts codes.
KNOWS_TOKENIZER = {"training.cli.train", "training.evaluation.code_statistics"}
# Facts and helpers that every tier may know.
TORCH_FREE = (
    *("model", "model.atomic_write", "model.generator", "model.generator.limits", "model.geometry", "model.metrics"),
    *("model.metrics.psnr", "model.bundle_files", "model.bundle_header", "model.compatibility"),
)


@cache
def imports(module: str) -> frozenset[str]:
    """Every module and name that `module` imports anywhere, dotted."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(found)


def reached(module: str) -> Iterator[str]:
    """Everything outside the project that importing `module` can load, followed through the project."""
    seen, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        parents = [current.rsplit(".", depth)[0] for depth in range(1, current.count(".") + 1)]
        waiting += [parent for parent in parents if parent in MODULES]
        for name in imports(current):
            owner = next((part for part in (name, name.rpartition(".")[0]) if part in MODULES), None)
            if owner is not None:
                waiting.append(owner)
            elif name.split(".")[0] not in PACKAGES:
                yield name.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_precedes_them(package: str) -> None:
    wrong = {
        (module, name)
        for module in MODULES
        if module.split(".")[0] == package
        for name in imports(module)
        if name.split(".")[0] in {*PACKAGES, *OUTSIDE} - MAY_IMPORT[package]
    }
    assert not wrong


def test_only_commands_build_demo_data() -> None:
    users = {module for module in MODULES if any(name.startswith("training.demo_data") for name in imports(module))}
    assert {module for module in users if not module.startswith("training.demo_data")} == {"training.cli.data"}


def test_the_core_of_training_does_not_know_the_tokenizers_part() -> None:
    own = {module for module in MODULES if f"{module}.".startswith("training.tokenizer.")}
    users = {module for module in MODULES if module.startswith("training.") and imports(module) & own}
    assert users - own == KNOWS_TOKENIZER
    assert not {name for module in own for name in imports(module)} & KNOWS_TOKENIZER


@pytest.mark.parametrize(
    "module",
    [
        *(name for name in MODULES if name.startswith(("service.jobs", "service.link", "service.scheduling"))),
        "service.in_process",
        *(name for name in MODULES if name.split(".")[0] == "media"),
        *TORCH_FREE,
        "service.sandbox.worker",
        "service.sandbox.pool",
        "service.types",
        "service.errors",
    ],
)
def test_what_every_tier_shares_needs_no_framework(module: str) -> None:
    assert not {"torch", "ray", "fastapi"} & set(reached(module))


def test_parts_of_the_service_import_only_their_own() -> None:
    wrong = set()
    for module in MODULES:
        _, _, inside = module.partition("service.")
        part = inside.partition(".")[0]
        for name in imports(module) if inside else ():
            other = name.removeprefix("service.").partition(".")[0] if name.startswith("service.") else part
            if other not in {part} | SERVICE.get(part, set()):
                wrong.add((module, name))
    assert not wrong


@pytest.mark.parametrize("library", KEEPERS)
def test_libraries_stay_with_their_keepers(library: str) -> None:
    users = {name for name in MODULES if name.startswith("service.")}
    users = {name for name in users if library in {used.split(".")[0] for used in imports(name)}}
    assert users
    assert {name for name in users if not f"{name}.".startswith(KEEPERS[library])} == set()


def test_only_the_engine_and_the_command_know_the_networks() -> None:
    users = {
        module
        for module in MODULES
        if module.startswith("service.")
        for name in imports(module)
        if name.split(".")[0] == "torch" or (name in MODULES and name.startswith("model") and name not in TORCH_FREE)
    }
    assert {module for module in users if not module.startswith(USES_MODEL)} == set()


def test_the_client_works_where_there_is_no_torch() -> None:
    code = "import sys\nfor name in ('torch', 'ray', 'fastapi'): sys.modules[name] = None\nimport service.client\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_training_and_evaluation_on_sets_of_pixels_need_no_decoder() -> None:
    code = (
        "import sys\nfor name in ('av', 'ray', 'fastapi', 'pydantic'): sys.modules[name] = None\n"
        "import training.runner, training.data.loaders.open_loader, training.generator.extraction\n"
        "import training.evaluation.evaluate, training.evaluation.generation, benchmarks.training\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_networks_load_and_run_without_the_compiler_of_torch() -> None:
    code = (
        "import sys\nsys.modules['torch._dynamo'] = None\n"
        "from pathlib import Path\n"
        "from service.engine.generator import GeneratorEngine\n"
        "from service.engine.lane import LaneOptions\n"
        "from service.engine.tokenizer import Engine\n"
        "tokenizers = [Path('bundles', name) for name in ('demo-vq', 'demo-vae')]\n"
        "generators = [Path('bundles', name) for name in ('demo-lm', 'demo-latte')]\n"
        "Engine(tokenizers, 'cpu', 'float32', 1).warm_up()\n"
        "GeneratorEngine.load(generators, 'cpu', 1, LaneOptions(slots=2, prefill_tokens=64), tokenizers)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
