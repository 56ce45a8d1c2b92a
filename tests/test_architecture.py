"""The import rules of the design, executed: arrows run down only.

gunicorn.conf.py, bench > app.main > app.routers > the rest of app > the public names of engine;
app.commands, when one of them needs it > training > the model and the public names of engine;
in engine: service > what it is made of > model, codec, text > the leaves.
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

# All that app/ may know of the engine.
ENGINE_FOR_APP = {"engine", *(f"engine.{name}" for name in ("config", "errors", "interface", "testing", "types"))}
# What importing `engine` loads, and the decisions that are pure: none of it knows torch.
TORCH_FREE = {
    "engine",
    *(
        f"engine.{name}"
        for name in ("config", "errors", "interface", "joins", "machine_limits", "scheduler", "slices", "stream")
    ),
    *(f"engine.{name}" for name in ("testing", "text", "types")),
}
ENGINE_LEAVES = {"engine.config", "engine.errors", "engine.types"}
# Who touches the environment, and why nobody else has to.
ENVIRONMENT = {
    "app/settings.py": "reads it: every setting comes from here",
    "app/cli.py": "an entrance: sets it for the master it becomes, and hands it to what takes a mapping",
    "app/main.py": "an entrance: hands it to what takes a mapping",
    "gunicorn.conf.py": "an entrance: hands it over, and sets what is a worker's own",
    "engine/codec/mimi.py": "moshi takes its switches from nowhere else: set around its import, then put back",
}


@dataclass(frozen=True)
class Import:
    importer: str
    module: str
    at_top: bool  # runs when the importer is imported


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path for package in ("app", "engine", "training") for path in (ROOT / package).rglob("*.py")
}


def imports_of(name: str, source: str, is_package: bool) -> Iterator[Import]:
    """Every import of a module, absolute; `from package import module` names the module."""
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
    """Every node that runs when the module does: not the bodies of functions, nor what is for type checkers."""
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


def of(package: str) -> list[Import]:
    return [each for each in IMPORTS if within(each.importer, package)]


def broken(imports: Iterable[Import]) -> list[str]:
    return sorted(f"{each.importer} imports {each.module}" for each in imports)


def test_the_walker_sees_every_form_of_import() -> None:
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


def test_app_never_imports_what_only_the_engine_may() -> None:
    assert broken([each for each in of("app") if each.module.split(".")[0] in HEAVY]) == []


def test_app_knows_the_engine_by_its_public_names() -> None:
    assert (
        broken([each for each in of("app") if within(each.module, "engine") and each.module not in ENGINE_FOR_APP])
        == []
    )


def test_the_engine_knows_nothing_of_the_service() -> None:
    strangers = {"app", "fastapi", "starlette", "uvicorn", "gunicorn", "pydantic", "pydantic_settings"}
    assert broken([each for each in of("engine") if each.module.split(".")[0] in strangers]) == []


def test_training_is_known_to_the_commands_alone_and_only_once_they_run() -> None:
    to_training = [
        each for each in IMPORTS if within(each.module, "training") and not within(each.importer, "training")
    ]
    assert to_training
    assert broken([each for each in to_training if not within(each.importer, "app.commands")]) == []
    assert broken([each for each in to_training if each.at_top]) == []


def test_training_never_reaches_into_how_the_engine_runs() -> None:
    assert broken([each for each in of("training") if within(each.module, "app")]) == []
    may = ENGINE_FOR_APP | {"engine.fallback", "engine.model", "engine.random_checkpoint", "engine.text"}
    reaching = [each for each in of("training") if within(each.module, "engine") and each.module != "engine"]
    assert broken([each for each in reaching if not any(within(each.module, name) for name in may - {"engine"})]) == []


def test_routers_are_below_main_and_above_the_rest() -> None:
    rest = [each for each in of("app") if each.importer != "app.main"]
    assert broken([each for each in rest if within(each.module, "app.main")]) == []
    below = [each for each in rest if not within(each.importer, "app.routers")]
    assert broken([each for each in below if within(each.module, "app.routers")]) == []


def test_what_must_not_know_torch_does_not() -> None:
    pure = [each for each in of("engine") if each.importer in TORCH_FREE or within(each.importer, "engine.fallback")]
    assert pure
    assert broken([each for each in pure if each.module.split(".")[0] in HEAVY]) == []


def test_only_the_codec_imports_moshi() -> None:
    elsewhere = [each for each in IMPORTS if not within(each.importer, "engine.codec")]
    assert broken([each for each in elsewhere if within(each.module, "moshi")]) == []


@pytest.mark.parametrize(
    ("package", "beside"),
    [("engine.model", set()), ("engine.codec", {"engine.model.weights"}), ("engine.text", set())],
)
def test_the_model_and_the_codec_know_themselves_and_the_leaves(package: str, beside: set[str]) -> None:
    own = [each for each in of(package) if within(each.module, "engine") and not within(each.module, package)]
    assert broken([each for each in own if each.module not in ENGINE_LEAVES | beside]) == []


def test_the_leaves_know_only_each_other() -> None:
    own = [each for each in IMPORTS if each.importer in ENGINE_LEAVES and within(each.module, "engine")]
    assert broken([each for each in own if each.module not in ENGINE_LEAVES]) == []


def test_nothing_in_the_engine_is_above_its_service() -> None:
    above = [each for each in of("engine") if within(each.module, "engine.engine_core")]
    assert {each.importer for each in above} <= {"engine"}
    assert not any(each.at_top for each in above)


def test_there_is_no_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in SOURCES}
    for each in IMPORTS:
        if each.at_top and each.module in SOURCES and each.module != each.importer:
            graph[each.importer].add(each.module)
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_who_touches_the_environment() -> None:
    paths = [*SOURCES.values(), *ROOT.glob("*.py"), *(ROOT / "bench").rglob("*.py")]
    touching = {
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
    assert touching <= ENVIRONMENT.keys()


@pytest.mark.parametrize("module", ["engine", "engine.testing", "engine.fallback.espeak", "app.main", "app.cli"])
def test_importing_it_loads_no_torch(module: str) -> None:
    program = f"import sys, {module}; print(sorted({HEAVY!r} & sys.modules.keys()))"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True
    )
    assert ran.stdout.strip() == "[]"
