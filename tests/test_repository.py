"""Consistency of the repository: locks, versions, make targets, image and workflows."""

from __future__ import annotations

import ast
import json
import re
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.release_notes import ReleaseError, release_notes
from scripts.write_env import first_env
from tests.conftest import LONGEST
from tests.tools import need

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# Split, so that this file does not match itself.
REGISTRY_HOSTS = ["py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org", "registry.npm" + "js.org"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def files() -> list[Path]:
    """Files tracked by git, and untracked ones that are not ignored."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [need("git"), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def locked(name: str) -> dict[str, list[str]]:
    """Package -> its pinned versions, several if they differ by Python or platform."""
    pins: dict[str, list[str]] = {}
    for line in text_of(name).splitlines():
        if found := re.match(r"([A-Za-z0-9._-]+)==(\S+)", line):
            pins.setdefault(canonicalize_name(found[1]), []).append(found[2])
    return pins


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def requirements() -> list[Requirement]:
    """Without the extras that nothing here installs: they are loaded only where they are there."""
    optional = PROJECT["project"]["optional-dependencies"]
    extras = [optional[name] for name in optional if name not in ("stt", "talk", "gcs", "azure")]
    return [
        Requirement(line)
        for line in [*PROJECT["project"]["dependencies"], *(each for extra in extras for each in extra)]
    ]


def test_no_file_contains_a_registry_url() -> None:
    naming = [
        path.relative_to(ROOT).as_posix()
        for path in files()
        if any(host.encode() in path.read_bytes() for host in REGISTRY_HOSTS)
    ]
    assert naming == []
    assert not (ROOT / "uv.lock").exists()


def test_no_source_is_ignored() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    ignored = [
        need("git"),
        "ls-files",
        "--others",
        "--ignored",
        "--exclude-standard",
        "--",
        "app",
        "engine",
        "bench",
        "tests",
    ]
    listed = subprocess.run(
        ignored, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout.splitlines()
    assert [name for name in listed if "__pycache__" not in name] == []


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_locked_at_an_allowed_version(requirement: Requirement) -> None:
    versions = locked("requirements-dev.lock")[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-bootstrap.txt"])
def test_every_pin_has_a_hash_and_no_url(name: str) -> None:
    text = text_of(name)
    pins = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert pins
    assert all("--hash=sha256:" in pin for pin in pins)
    assert "://" not in text
    assert "--index" not in text


def test_the_newest_changelog_section_is_the_current_version() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\]", text_of("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == PROJECT["project"]["version"]


PROJECT_TEXT = '[project]\nversion = "0.2.0"\n'
CHANGELOG_TEXT = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2027-01-02\n\n- New.\n\n## [0.1.0]\n\n- Old.\n"


TEST_IMAGE = "./.github/workflows/test-image.yml"
PUSH_IMAGE = "./.github/workflows/push-image.yml"
RUNNERS = {"amd64": "ubuntu-24.04", "arm64": "ubuntu-24.04-arm"}  # of GitHub's, by architecture


def test_release_notes_are_the_tags_changelog_section() -> None:
    assert release_notes("v0.2.0", PROJECT_TEXT, CHANGELOG_TEXT) == "- New.\n"
    with pytest.raises(ReleaseError, match=r"the tag is v0\.3\.0, and pyproject.toml has version 0\.2\.0"):
        release_notes("v0.3.0", PROJECT_TEXT, CHANGELOG_TEXT)
    with pytest.raises(ReleaseError, match=r"CHANGELOG.md has no section for 0\.2\.0"):
        release_notes("v0.2.0", PROJECT_TEXT, CHANGELOG_TEXT.replace("- New.", ""))


def test_the_current_version_has_release_notes() -> None:
    notes = release_notes(f"v{PROJECT['project']['version']}", text_of("pyproject.toml"), text_of("CHANGELOG.md"))
    assert notes.strip()


def test_the_release_workflow_runs_all_checks_before_publishing() -> None:
    workflow = yaml.safe_load(text_of(".github/workflows/release.yml"))
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true
    assert ".ci/run" in [step.get("run") for step in workflow["jobs"]["check"]["steps"]]
    assert workflow["jobs"]["release"]["needs"] == ["check", "image"]
    assert workflow["jobs"]["image"] == {"uses": TEST_IMAGE, "with": {"ref": "${{ github.ref }}"}}
    assert (workflow["jobs"]["push"]["needs"], workflow["jobs"]["push"]["uses"]) == ("release", PUSH_IMAGE)


def test_pre_commit_runs_make_check() -> None:
    (repository,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["entry"], hook["always_run"]) == ("local", "make check", True)


def test_the_readme_shows_the_two_commands() -> None:
    assert {"serve", "test"} <= set(re.findall(r"^\s*(?:\$ )?make ([a-z-]+)", text_of("README.md"), re.MULTILINE))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".ci/run", "scripts/make-venv"])
def test_documented_make_targets_exist(name: str) -> None:
    assert set(re.findall(r"(?:`|^|\$ |: )make ([a-z-]+)", text_of(name), re.MULTILINE)) <= targets()


def test_every_make_target_has_help_and_is_phony() -> None:
    explained = set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE)[1].split())  # type: ignore[index]
    assert explained == phony == targets()


def test_the_fast_test_paths_exist() -> None:
    paths = [line.removeprefix("--ignore=") for line in text_of("tests/fast.txt").splitlines()]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_files_that_take_longest_exist() -> None:
    assert [path for path in LONGEST if not (ROOT / path).is_file()] == []


def test_ci_run_has_all_phases_in_order() -> None:
    text = text_of(".ci/run")
    phases = re.findall(r"^phase (.+)$", text, re.MULTILINE)
    assert phases == ["install_tools &", "make check", "make test", "test_fresh &", "make test-cluster"]
    assert text.endswith('\nwait "$fresh"\n')  # whose status CI ends with
    assert 'make test-fresh ARGS="--quick --if-possible"' in text
    assert (ROOT / ".ci/run").stat().st_mode & stat.S_IXUSR


def test_first_env_sets_the_key_and_loopback() -> None:
    text = first_env("# your key\nAPI_KEY=change-me\n\n# HOST=0.0.0.0\nPORT=8000\n", "secret")
    assert text == "# your key\nAPI_KEY=secret\n\nHOST=127.0.0.1\nPORT=8000\n"
    assert first_env("PORT=8000", "secret") == "PORT=8000\nAPI_KEY=secret\nHOST=127.0.0.1\n"


def test_first_env_of_the_example_changes_two_lines() -> None:
    example = text_of(".env.example")
    changed = set(first_env(example, "secret").splitlines()) - set(example.splitlines())
    assert changed == {"API_KEY=secret", "HOST=127.0.0.1"}


def test_the_license_is_apache() -> None:
    text = text_of("LICENSE")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").iterdir()), ids=lambda path: path.name)
def test_workflow_jobs_have_timeouts_and_minimal_permissions(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}  # jobs that need more declare it
    for job in workflow["jobs"].values():
        if job.get("uses") in (TEST_IMAGE, PUSH_IMAGE):
            continue
        assert job["timeout-minutes"] <= 60
        assert all("uses" in step or "run" in step for step in job["steps"])


def test_ci_runs_on_the_oldest_and_newest_python() -> None:
    workflow = yaml.safe_load(text_of(".github/workflows/ci.yml"))
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as true
    job = workflow["jobs"]["check"]
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == ".ci/run"
    pythons = job["strategy"]["matrix"]["python"]
    oldest, newest = pythons[0], pythons[-1]
    assert PROJECT["project"]["requires-python"] == f">={oldest},<3.{int(newest.split('.')[1]) + 1}"
    arm = [each["os"] for each in job["strategy"]["matrix"]["include"]]
    assert [*job["strategy"]["matrix"]["os"], *arm] == list(RUNNERS.values())


def test_ci_checks_the_javascript_client_on_the_oldest_node() -> None:
    node, install, run = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]["check"]["steps"][-3:]
    oldest = json.loads(text_of("clients/js/package.json"))["engines"]["node"].removeprefix(">=")
    assert node["with"]["node-version"] == oldest.split(".")[0]
    assert f"Node {oldest} or later" in text_of("clients/js/README.md")
    assert re.fullmatch(r"npm install --global typescript@\d+\.\d+\.\d+", install["run"])
    assert "node npm tsc" in run["env"]["CSM_REQUIRE_TOOLS"]


def test_the_image_is_pushed_from_main_after_all_checks() -> None:
    workflow = yaml.safe_load(text_of(".github/workflows/image.yml"))
    assert workflow[True] == {"workflow_run": {"workflows": ["ci"], "types": ["completed"], "branches": ["main"]}}
    job = workflow["jobs"]["push"]
    for each in workflow["jobs"].values():
        assert "conclusion == 'success'" in each["if"]
        assert "event == 'push'" in each["if"]
    assert job["needs"] == "test"
    assert workflow["jobs"]["test"]["uses"] == TEST_IMAGE
    assert workflow["jobs"]["test"]["with"] == {"ref": "${{ github.event.workflow_run.head_sha }}"}
    assert job["uses"] == PUSH_IMAGE
    assert job["with"] == {"ref": "${{ github.event.workflow_run.head_sha }}", "another-tag": "latest"}


def test_the_image_is_tested_at_the_callers_commit() -> None:
    workflow = yaml.safe_load(text_of(TEST_IMAGE))
    assert workflow[True]["workflow_call"]["inputs"]["ref"]["required"]
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[0]["with"] == {"ref": "${{ inputs.ref }}"}
    assert steps[-1]["run"] == "sudo python3 -m scripts.test_image"
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["os"] == list(RUNNERS.values())


def test_the_image_is_pushed_for_both_architectures_under_the_same_tags() -> None:
    workflow = yaml.safe_load(text_of(PUSH_IMAGE))
    build, join = workflow["jobs"]["build"], workflow["jobs"]["join"]
    assert {each["architecture"]: each["os"] for each in build["strategy"]["matrix"]["include"]} == RUNNERS
    assert build["steps"][0]["with"] == {"ref": "${{ inputs.ref }}"}
    assert build["steps"][-1]["with"]["tags"].endswith(":${{ env.TAG }}-${{ matrix.architecture }}")
    assert join["needs"] == "build"
    assert all(f"$TAG-{architecture}" in join["steps"][-1]["run"] for architecture in RUNNERS)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, argument), with continuation lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text_of("Dockerfile"), flags=re.MULTILINE))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_the_image_copies_exactly_the_build_context() -> None:
    sent = re.findall(r"^!(\S+?)/?$", text_of(".dockerignore"), re.MULTILINE)
    copied = [source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]]
    assert sorted(copied) == sorted(sent)
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_the_image_runs_the_service_as_an_unprivileged_user() -> None:
    words = dict(instructions())
    assert words["CMD"] == '["csm-serve", "serve"]'
    assert words["USER"] == "csm"
    assert words["EXPOSE"] == "8000"
    assert words["VOLUME"] == '["/cache", "/app/voices"]'
    assert "/livez" in words["HEALTHCHECK"]
    assert words["FROM"] == "${BASE}"
    assert words["ARG"].startswith("BASE=nvidia/cuda:12.8")


def test_unneeded_packages_are_removed_in_the_layer_that_installs_them() -> None:
    (layer,) = (rest for word, rest in instructions() if word == "RUN" and "requirements.lock" in rest)
    assert layer.index("uv pip install") < layer.index("pip uninstall --yes --quiet uv") < layer.index("rm -rf")
    assert "ptxas" not in layer  # Triton's assembler


def test_the_image_has_no_development_tools() -> None:
    assert "requirements-dev.lock" not in text_of("Dockerfile")
    assert not {"hypothesis", "mypy", "pytest", "ruff"} & set(locked("requirements.lock"))


def test_the_csm_serve_command_is_declared() -> None:
    from app.cli import main

    assert PROJECT["project"]["scripts"] == {"csm-serve": "app.cli.main:main"}
    assert callable(main.main)


def test_documents_name_the_supported_python_versions() -> None:
    oldest, newest = re.search(r"^>=(3\.\d+),<3\.(\d+)$", PROJECT["project"]["requires-python"]).groups()  # type: ignore[union-attr]
    named = f"Python {oldest} to 3.{int(newest) - 1} with"
    assert all(named in text_of(name) for name in ("README.md", "CONTRIBUTING.md", "scripts/make-venv"))


_PROCESSES = {"run", "call", "check_call", "check_output"}  # functions of subprocess whose timeout is a keyword
_WAITS = {"wait", "join", "communicate", "acquire"}  # unbounded without an argument
_WAITS_OF = {"queue": "get", "multiprocessing": "get", "concurrent.futures": "result"}  # the same, for these modules


def unbounded_waits(source: str) -> Iterator[int]:
    """Line numbers of calls without a timeout. Waits in an event loop are bounded by the test's timeout."""

    def visit(node: ast.AST, in_loop: bool) -> Iterator[int]:
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef | ast.Lambda):
            in_loop = isinstance(node, ast.AsyncFunctionDef)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, named = node.func.attr, {each.arg for each in node.keywords}
            of_subprocess = isinstance(node.func.value, ast.Name) and node.func.value.id == "subprocess"
            if of_subprocess and name in _PROCESSES and "timeout" not in named:
                yield node.lineno
            if name in waits and not node.args and not named & {"timeout", "blocking"} and not in_loop:
                yield node.lineno
            if name == "communicate" and node.args and "timeout" not in named and not in_loop:
                yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child, in_loop)

    tree = ast.parse(source)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    waits = _WAITS | {name for module, name in _WAITS_OF.items() if module in imported}
    return visit(tree, False)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_tests_have_no_unbounded_waits(path: Path) -> None:
    assert list(unbounded_waits(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run(['true'], check=True)",
        "process.wait()",
        "process.communicate(b'')",
        "thread.join()",
        "from queue import Queue\nQueue().get()",
        "from concurrent.futures import Future\nFuture().result()",
        "lambda: gate.wait()",
        "async def test():\n    def work():\n        gate.wait()",
    ],
)
def test_unbounded_waits_are_found(line: str) -> None:
    assert len(list(unbounded_waits(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run(['true'], check=True, timeout=60)",
        "process.wait(timeout=60)",
        "process.communicate(b'', timeout=60)",
        "gate.wait(0.01)",
        "', '.join(names)",
        "import queue\nnames.get('a')",
        "audio.get()",
        "async def test():\n    await gate.wait()",
        "lock.acquire(blocking=False)",
    ],
)
def test_a_wait_with_a_limit_is_none(line: str) -> None:
    assert list(unbounded_waits(line)) == []


def test_a_test_that_hangs_ends_itself_and_the_run() -> None:
    settings = PROJECT["tool"]["pytest"]["ini_options"]
    assert settings["timeout_func_only"] is False  # fixtures count
    assert settings["faulthandler_exit_on_timeout"] is True  # also in the middle of C
    longest = max(
        int(limit)
        for path in (ROOT / "tests").rglob("*.py")
        for limit in re.findall(r"^@pytest\.mark\.timeout\((\d+)\)", path.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert max(longest, settings["timeout"]) < settings["faulthandler_timeout"] < settings["session_timeout"]


def test_make_serve_takes_a_model() -> None:
    """`make serve MODEL=…` sets MODEL_PATH for this start; without it the setting stays what it is."""
    lines = [
        subprocess.run(
            [need("make"), "--no-print-directory", "--dry-run", "serve", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout.splitlines()[-1]
        for arguments in (["MODEL=some dir/csm"], [])
    ]
    assert lines[0].split(" exec ")[0].strip() == "MODEL_PATH='some dir/csm'"
    assert "MODEL_PATH" not in lines[1]
