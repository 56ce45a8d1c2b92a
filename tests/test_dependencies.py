"""Every package that the code imports is declared and locked, and the locks hold nothing that must not be there."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OWN = ("app", "cluster", "engine", "training", "models", "bench", "scripts", "csm_serve_client")
SERVING, DEVELOPMENT = "requirements.lock", "requirements-dev.lock"
LOCK_OF = {
    "app": SERVING,
    "cluster": DEVELOPMENT,
    "engine": SERVING,
    "training": SERVING,
    "models": SERVING,
    "clients/python": SERVING,
    "bench": DEVELOPMENT,
    "scripts": DEVELOPMENT,
}
# The extras of pyproject.toml whose packages a directory may import, beside the dependencies.
EXTRAS_OF = {
    "app": [],
    "cluster": ["ray"],
    "engine": [],
    "training": ["train"],
    "models": ["train"],
    "clients/python": [],
    "bench": ["dev", "train"],
    "scripts": ["dev"],
}
FORBIDDEN = ("sphn", "bitsandbytes", "sounddevice")

# Imports whose distribution pyproject.toml does not declare, and why it is there.
UNDECLARED = {
    "anyio": "starlette's interface to the event loop; starlette requires it",
    "cuda": "NVIDIA's driver and compiler, of torch's wheels, which require them",
    "fsspec": "torch requires it; what it needs for a kind of bucket comes with the extras s3, gcs and azure",
    "pydantic": "fastapi's models; fastapi requires it",
    "triton": "the compiler of torch's wheels, which require it",
    "uvloop": "uvicorn[standard] requires it",
    "websockets": "uvicorn[standard] requires it",
    "yaml": "uvicorn[standard] requires it",
}
# Imports that requirements.lock does not hold, and why. The development lock does.
UNLOCKED = {
    "limits": "the extra redis, for limits across machines",
    "opentelemetry": "the extra otel, for traces",
    "pocketsphinx": "csm-mini's recipe alone takes its pronunciations; no wheels for every Python and machine",
    "redis": "the same",
    "wyoming": "the bridge for Home Assistant, an extra",
    "zeroconf": "announces that bridge",
    "runpod": "the worker of a RunPod endpoint, an extra",
}
# The distribution of a module that is not installed on every machine, where its name differs from the module's.
DISTRIBUTION = {"cuda": "cuda-bindings"}
# What a locked package loads only where something else has installed it.
LOADED_IF_THERE = {
    "socks": "urllib3's SOCKS proxies; selenium brings it",
    "rich": "the command line of httpx, which huggingface-hub 1.x loads; schemathesis brings it",
    "pygments": "as rich, which needs it",
}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def imported_by(source: str) -> set[str]:
    """The top-level modules that a source imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


def imports_of(directory: str) -> set[str]:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / directory).rglob("*.py")]
    assert sources
    return set().union(*map(imported_by, sources)) - set(sys.stdlib_module_names) - set(OWN)


installed = functools.cache(packages_distributions)  # it reads the files of every distribution


def distributions_of(module: str) -> set[str]:
    """More than one where they share a namespace; none if it is not installed here."""
    return {canonicalize_name(name) for name in installed().get(module, [])}


def pins(lock: str) -> dict[str, list[str]]:
    """Package -> the versions that a lock pins."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text_of(lock), re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


def declared(directory: str) -> set[str]:
    project = PROJECT["project"]
    lines = [*project["dependencies"]]
    for extra in EXTRAS_OF[directory]:
        lines += project["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def left_out(lock: str, **environment: str) -> set[str]:
    """The packages that a lock's markers leave out on this machine, or on one that differs from it in `environment`."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)==\S+ ; (.+?)(?: \\)?$", text := text_of(lock), re.MULTILINE)
    assert len(lines) == len(re.findall(r"^\S+==\S+ ; ", text, re.MULTILINE))
    return {canonicalize_name(name) for name, marker in lines if not Marker(marker).evaluate(dict(environment))}


def unpinned(modules: set[str], lock: str) -> set[str]:
    """Those of which a distribution is missing in a lock, or which are not installed, though the lock has them here."""
    locked, elsewhere = set(pins(lock)), left_out(lock)
    found = {module: distributions_of(module) for module in modules}
    return {
        module
        for module, distributions in found.items()
        if not distributions <= locked
        or not (distributions or DISTRIBUTION.get(module, canonicalize_name(module)) in elsewhere)
    }


def test_the_walker_sees_imports_inside_functions_and_none_of_its_own_package() -> None:
    source = "import a.b\nfrom c.d import e\nfrom . import f\ndef g():\n    import h as i\n    from ..j import k\n"
    assert imported_by(source) == {"a", "c", "h"}
    assert unpinned({"torch", "pytest", "no_such_module"}, SERVING) == {"pytest", "no_such_module"}


def test_the_locks_leave_out_nothing_but_cuda_on_arm() -> None:
    def difference(lock: str) -> set[str]:
        on_arm, on_x86_64 = (
            left_out(lock, platform_machine=machine, python_full_version="3.12.0") for machine in ("aarch64", "x86_64")
        )
        assert on_x86_64 < on_arm
        return on_arm - on_x86_64

    cuda = difference(SERVING)
    assert {"triton", "cuda-bindings"} <= cuda
    assert {name for name in cuda if not name.startswith(("nvidia-", "cuda-", "triton"))} == set()
    assert difference(DEVELOPMENT) == cuda | {"pocketsphinx"}


@pytest.mark.parametrize("directory", LOCK_OF)
def test_what_is_imported_is_locked(directory: str) -> None:
    assert unpinned(imports_of(directory) - UNLOCKED.keys(), LOCK_OF[directory]) == set()


@pytest.mark.parametrize("directory", LOCK_OF)
def test_what_is_imported_is_declared(directory: str) -> None:
    known = declared(directory)
    modules = imports_of(directory) - UNDECLARED.keys() - UNLOCKED.keys()
    assert {module for module in modules if not distributions_of(module) & known} == set()


def test_every_exception_is_needed() -> None:
    imported = {directory: imports_of(directory) for directory in LOCK_OF}
    for module in UNDECLARED:
        users = [directory for directory, modules in imported.items() if module in modules]
        assert any(not distributions_of(module) & declared(directory) for directory in users), module
    assert UNLOCKED.keys() <= set().union(*imported.values())
    development_alone = set(pins(DEVELOPMENT)) - set(pins(SERVING))
    # One without a wheel for this Python or machine is not installed; its distribution has the module's name.
    assert all((distributions_of(name) or {canonicalize_name(name)}) & development_alone for name in UNLOCKED)
    assert all(distributions_of(name) <= development_alone for name in LOADED_IF_THERE)


def test_what_the_codec_really_loads_is_locked() -> None:
    """moshi declares packages that are left out of the locks: what the project uses of it must do without them."""
    program = (
        "import json, sys; before = set(sys.modules); import engine.codec.mimi; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True
    )
    loaded = set(json.loads(ran.stdout)) - set(sys.stdlib_module_names) - set(OWN)
    packages = {module for module in loaded if distributions_of(module)}  # others are made by a package at run time
    assert {"moshi", "torch", "sentencepiece"} <= packages
    assert unpinned(packages - LOADED_IF_THERE.keys(), SERVING) == set()
    assert not loaded & set(FORBIDDEN)


@pytest.mark.parametrize("lock", [SERVING, DEVELOPMENT])
def test_a_lock_has_one_version_of_each_package_and_none_that_is_forbidden(lock: str) -> None:
    found = pins(lock)
    assert found
    assert {name: versions for name, versions in found.items() if len(versions) > 1} == {}
    assert not set(FORBIDDEN) & set(found)


def test_serving_needs_no_storage_packages() -> None:
    """They come with extras; aiohttp, which moshi declares, too."""
    assert not {"aiohttp", "boto3", "botocore", "gcsfs", "adlfs", "s3fs"} & set(pins(SERVING))


def test_what_serves_is_locked_alike_for_development() -> None:
    development = pins(DEVELOPMENT)
    differing = {
        name: (versions, development.get(name))
        for name, versions in pins(SERVING).items()
        if development.get(name) != versions
    }
    assert differing == {}
