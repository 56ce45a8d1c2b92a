"""Import rules of the design: each line may import only what is below it.

cluster, gunicorn.conf.py, bench > app.main, app.server > app.routers > the rest of app, in layers (APP_LAYERS) > the
public names of engine; app.cli (lazily) > cluster; app.cli (lazily), models > training > the model and the public names
of engine;
in engine: engine_core > its parts > model, codec, text > the leaves.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "torchaudio", "transformers", "moshi"}

# Modules of the engine that app/ may import.
ENGINE_FOR_APP = {"engine", *(f"engine.{name}" for name in ("config", "errors", "interface", "testing", "types"))}
# What `import engine` loads, and pure decisions: none of it imports torch.
TORCH_FREE = {
    "engine",
    *(f"engine.{name}" for name in ("config", "context", "crossfade", "errors", "interface", "loop_bridge")),
    *(f"engine.{name}" for name in ("machine_limits", "prefill_budget", "scheduler", "slice_policy", "stream")),
    *(f"engine.{name}" for name in ("chunk_plan", "fake_options", "fake_stream", "lexicon", "testing", "text_feed")),
    *(f"engine.{name}" for name in ("timing", "types", "word_times")),
    *(f"engine.text{name}" for name in ("", ".abbreviations", ".addresses", ".amounts", ".dates", ".languages")),
    *(f"engine.text.{name}" for name in ("growing", "markup", "normalization", "numbers", "reading", "rules")),
    *(f"engine.text.{name}" for name in ("say_as", "source", "splitting", "ssml", "xml_source")),
    "engine.prompt_packing",
}
ENGINE_LEAVES = {
    "engine.config",
    "engine.errors",
    "engine.lexicon",
    "engine.text_feed",
    "engine.timing",
    "engine.types",
}
# The files that may use the environment, and why.
ENVIRONMENT = {
    "app/settings_loader.py": "reads it: every setting comes from here",
    "app/cli/main.py": "entry point: sets it for the master process, and passes it as a mapping",
    "app/main.py": "entry point: passes it as a mapping",
    "app/voices/object_storage.py": "gcsfs has no other switch that keeps gRPC out, read when it is imported",
    "cluster/launch.py": "Ray has no other switch that turns off its reports, before it is imported",
    "cluster/replica.py": "entry point of a replica: sets its variables before torch is imported",
    "gunicorn.conf.py": "entry point: passes it as a mapping, and sets each worker's variables",
    "clients/python/csm_serve_client/environment.py": "reads it: address and key of a service",
    "engine/onnx.py": "onnxruntime has no other switch that turns all telemetry off",
    "bench/interruptions.py": "runs the service in its own process: sets its settings",
    "bench/cluster_ingress.py": "Ray has no other switch that turns off its reports, before it is imported",
    "bench/trace_worker.py": "runs inside gunicorn's worker: where to write, from bench.trace",
    "engine/codec/mimi.py": "moshi has no other switch: set around its import, then restored",
}


@dataclass(frozen=True)
class Import:
    importer: str
    module: str
    at_top: bool  # runs when the importer is imported


CLIENT = ROOT / "clients" / "python"


def module_name(path: Path) -> str:
    root = CLIENT if CLIENT in path.parents else ROOT
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for package in ("app", "cluster", "engine", "training", "models/csm_mini_recipe", CLIENT)
    for path in (ROOT / package).rglob("*.py")
}
# Packages whose imports inside functions and under TYPE_CHECKING count too: a lazy import only hides a cycle.
WITHOUT_HIDDEN_CYCLES = ("app", "cluster", "engine", "training", "models", "csm_serve_client")
# Each package of app/ may import those in lower layers; lazy imports and TYPE_CHECKING count. Packages of one layer do
# not import each other.
APP_LAYERS: tuple[tuple[str, ...], ...] = (
    ("app.cli",),
    ("app.main", "app.server"),
    ("app.routers",),
    ("app.realtime",),
    ("app.websocket",),
    ("app.responses",),
    ("app.state",),
    ("app.pool",),
    ("app.schemas", "app.voices"),
    ("app.llm", "app.stt"),
    ("app.audio", "app.middleware"),
    ("app.observability",),
    ("app.access",),
    ("app.errors", "app.lexicon_file", "app.settings_loader"),
    ("app.settings",),
    ("app.reference_hosts", "app.shared_lock", "app.watermark_key"),
)


def imports_of(name: str, source: str, is_package: bool) -> Iterator[Import]:
    """Every import of a module as an absolute name; `from package import module` gives the module."""
    tree = ast.parse(source)
    at_top = set(map(id, _run_on_import(tree)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, id(node) in at_top)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                parent = package[: len(package) - node.level + 1]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield Import(name, submodule if submodule in SOURCES else base, id(node) in at_top)


def _run_on_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs on import: not function bodies, nor TYPE_CHECKING blocks."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _run_on_import(child)


IMPORTS = [
    each
    for name, path in SOURCES.items()
    for each in imports_of(name, path.read_text(encoding="utf-8"), path.name == "__init__.py")
]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def app_package(module: str) -> str:
    """`app.pool` of `app.pool.admission`; a module of app/ itself is its own package."""
    return ".".join(module.split(".")[:2])


def of(package: str) -> list[Import]:
    return [each for each in IMPORTS if within(each.importer, package)]


def violations(imports: Iterable[Import]) -> list[str]:
    return sorted(f"{each.importer} imports {each.module}" for each in imports)


def test_every_form_of_import_is_found() -> None:
    source = """
import os.path
from . import errors
from .text import split_text
if TYPE_CHECKING:
    import av
def later():
    import torch
class Now:
    import json
"""
    found = {(each.module, each.at_top) for each in imports_of("engine.stream", source, is_package=False)}
    assert found == {
        ("os.path", True),
        ("engine.errors", True),
        ("engine.text", True),
        ("av", False),
        ("torch", False),
        ("json", True),
    }


def test_app_never_imports_torch_or_its_libraries() -> None:
    assert violations([each for each in of("app") if each.module.split(".")[0] in HEAVY]) == []


def test_app_imports_only_public_modules_of_the_engine() -> None:
    assert (
        violations([each for each in of("app") if within(each.module, "engine") and each.module not in ENGINE_FOR_APP])
        == []
    )


def test_the_engine_imports_no_web_framework_and_no_app() -> None:
    forbidden = {"app", "fastapi", "starlette", "uvicorn", "gunicorn", "pydantic", "pydantic_settings"}
    assert violations([each for each in of("engine") if each.module.split(".")[0] in forbidden]) == []


def test_only_commands_lazily_and_the_recipe_import_training() -> None:
    to_training = [
        each for each in IMPORTS if within(each.module, "training") and not within(each.importer, "training")
    ]
    assert to_training
    from_app = [each for each in to_training if not within(each.importer, "models")]
    assert violations([each for each in from_app if not within(each.importer, "app.cli")]) == []
    assert violations([each for each in from_app if each.at_top]) == []


def test_only_commands_lazily_import_the_cluster() -> None:
    to_cluster = [each for each in IMPORTS if within(each.module, "cluster") and not within(each.importer, "cluster")]
    assert to_cluster
    assert violations([each for each in to_cluster if not within(each.importer, "app.cli") or each.at_top]) == []


def test_the_cluster_imports_no_torch() -> None:
    assert violations([each for each in of("cluster") if each.module.split(".")[0] in HEAVY]) == []
    assert violations([each for each in of("cluster") if within(each.module, "engine")]) == []


def test_nothing_imports_the_recipe() -> None:
    others = [each for each in IMPORTS if not within(each.importer, "models")]
    assert violations([each for each in others if within(each.module, "models")]) == []


def test_training_imports_only_the_model_of_the_engine() -> None:
    assert violations([each for each in of("training") if within(each.module, "app")]) == []
    allowed = ENGINE_FOR_APP | {"engine.fallback", "engine.model", "engine.random_checkpoint", "engine.text"}
    own = [each for each in of("training") if within(each.module, "engine") and each.module != "engine"]
    assert (
        violations([each for each in own if not any(within(each.module, name) for name in allowed - {"engine"})]) == []
    )


def test_packages_of_app_import_only_lower_layers() -> None:
    level = {package: number for number, layer in enumerate(APP_LAYERS) for package in layer}
    assert {app_package(name) for name in SOURCES if name.startswith("app.")} == level.keys()
    crossing = [
        each
        for each in of("app")
        if each.module.startswith("app.") and app_package(each.importer) != app_package(each.module)
    ]
    assert crossing
    upward = [each for each in crossing if level[app_package(each.importer)] >= level[app_package(each.module)]]
    assert violations(upward) == []


def test_the_client_imports_what_its_package_declares() -> None:
    declared = {"anyio", "dotenv", "httpx", "websockets"}  # httpx brings anyio
    own = [each for each in of("csm_serve_client") if not within(each.module, "csm_serve_client")]
    roots = {each.module.split(".")[0] for each in own} - set(sys.stdlib_module_names)
    assert roots == declared


def test_pure_modules_do_not_import_torch() -> None:
    assert not TORCH_FREE - SOURCES.keys()
    pure = [each for each in of("engine") if each.importer in TORCH_FREE or within(each.importer, "engine.fallback")]
    assert pure
    assert violations([each for each in pure if each.module.split(".")[0] in HEAVY]) == []


def test_only_the_codec_imports_moshi() -> None:
    elsewhere = [each for each in IMPORTS if not within(each.importer, "engine.codec")]
    assert violations([each for each in elsewhere if within(each.module, "moshi")]) == []


def test_onnxruntime_is_imported_without_telemetry() -> None:
    assert violations([each for each in IMPORTS if within(each.module, "onnxruntime")]) == []


@pytest.mark.parametrize(
    ("package", "also"),
    [
        ("engine.model", set()),
        ("engine.codec", {"engine.model.packed_linear", "engine.model.uninitialized", "engine.model.weights"}),
        ("engine.text", set()),
    ],
)
def test_model_codec_and_text_import_only_themselves_and_the_leaves(package: str, also: set[str]) -> None:
    own = [each for each in of(package) if within(each.module, "engine") and not within(each.module, package)]
    assert violations([each for each in own if each.module not in ENGINE_LEAVES | also]) == []


def test_the_leaves_import_only_each_other() -> None:
    own = [each for each in IMPORTS if each.importer in ENGINE_LEAVES and within(each.module, "engine")]
    assert violations([each for each in own if each.module not in ENGINE_LEAVES]) == []


def test_nothing_in_the_engine_imports_engine_core() -> None:
    above = [each for each in of("engine") if within(each.module, "engine.engine_core")]
    assert {each.importer for each in above} <= {"engine"}
    assert not any(each.at_top for each in above)


def test_there_is_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in SOURCES}
    for each in IMPORTS:
        counts = each.at_top or any(within(each.importer, package) for package in WITHOUT_HIDDEN_CYCLES)
        if counts and each.module in SOURCES and each.module != each.importer:
            graph[each.importer].add(each.module)
    TopologicalSorter(graph).prepare()  # raises CycleError with the cycle


def test_only_listed_files_use_the_environment() -> None:
    paths = [*SOURCES.values(), *ROOT.glob("*.py"), *(ROOT / "bench").rglob("*.py")]
    using = {
        path.relative_to(ROOT).as_posix()
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "putenv"})
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {"environ", "getenv"} & {a.name for a in node.names}
        )
    }
    assert using <= ENVIRONMENT.keys()


@pytest.mark.parametrize("module", ["engine", "engine.testing", "engine.fallback.espeak", "app.main", "app.cli.main"])
def test_importing_the_module_loads_no_torch(module: str) -> None:
    program = f"import sys, {module}; print(sorted({HEAVY!r} & sys.modules.keys()))"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True
    )
    assert ran.stdout.strip() == "[]"
