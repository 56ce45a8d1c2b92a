"""The documentation matches the code: settings, metrics, commands, files and links."""

from __future__ import annotations

import json
import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from app.access.key_metrics import KeyMetrics
from app.access.limiter import KeyLimiter
from app.access.shared_counts import SharedCounts
from app.cli.main import _parser as parser
from app.observability.metrics import FAMILIES, Metrics, new_counters
from app.pool.worker_gauges import worker_gauges
from app.settings import Settings
from cluster.options import SCRAPE_COMPLETE
from engine.text import spoken_chunks

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
METRICS = [
    *Metrics(new_counters(1)).collect(),
    *worker_gauges([]),
    *KeyMetrics(KeyLimiter(SharedCounts(64)), ()).collect(),
]
FILES = sorted(path for path in DOCS.rglob("*") if path.is_file() and path.suffix != ".png")
# Variables of other programs: the client, the driver, libraries and the image registry.
EXTERNAL_VARIABLES = {
    "CSM_URL",  # the client's
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_SAMPLER",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "XDG_CACHE_HOME",
    "AWS_ACCESS_KEY_ID",
    "AWS_ENDPOINT_URL",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "RAY_USAGE_STATS_ENABLED",
    "DOCKERHUB_USERNAME",
}


# The pages of examples, and what runs those of a language there: a test, or nothing, for the reason that is given.
# (Of console blocks, tests/integration/test_docs.py runs curl, and a test here reads every csm-serve.)
_DOCS = "tests/integration/test_docs.py"
EXAMPLES = {
    "README.md console": _DOCS,
    "clients/js/README.md console": "tests/browser/test_client.py",
    "clients/js/README.md js": "tests/browser/test_examples.py",
    "clients/python/README.md console": "it installs the package: the test of its wheel does",
    "clients/python/README.md python": _DOCS,
    "docs/api.md bash": _DOCS,
    "docs/api.md console": _DOCS,
    "docs/api.md python": _DOCS,
    "docs/clients/README.md sh": "it sets the variables that the tests set",
    "docs/clients/browser.md html": "tests/browser/test_examples.py",
    "docs/clients/browser.md js": "tests/browser/test_examples.py",
    "docs/clients/curl.md sh": _DOCS,
    "docs/clients/elevenlabs.md python": _DOCS,
    "docs/clients/elevenlabs.md text": "tests/integration/test_realtime_clients.py",
    "docs/clients/home-assistant.md console": "tests/integration/test_wyoming.py",
    "docs/clients/librechat.md yaml": "tests/app/routers/test_voice_tools.py",
    "docs/clients/livekit.md python": _DOCS,
    "docs/clients/open-webui.md env": "tests/app/routers/test_voice_tools.py",
    "docs/clients/openai.md python": _DOCS,
    "docs/clients/pipecat.md python": _DOCS,
    "docs/clients/python.md python": _DOCS,
    "docs/clients/shell.md console": "they play sound, or are typed; their commands are read",
    "docs/clients/shell.md sh": _DOCS,
    "docs/clients/twilio.md xml": "Twilio reads it",
    "docs/clients/websocket.md python": _DOCS,
    "docs/conversation.md json": "tests/app/realtime/test_session_voice.py",
    "docs/conversation.md python": _DOCS,
    "docs/conversation.md xml": "Twilio reads it",
    "docs/deployment.md console": _DOCS,
    "docs/deployment.md dockerfile": "it needs a registry of images",
    "docs/deployment.md python": "it needs an account at Modal",
    "docs/monitoring.md console": _DOCS,
    "docs/monitoring.md json": "a line of the log",
    "docs/monitoring.md promql": "Prometheus reads it; a test here looks up its metrics",
    "docs/scaling.md console": "it needs a cluster; the commands of csm-serve are read",
    "docs/security.md console": "the commands are read",
    "docs/shared-voices.md console": "the command is read",
    "docs/text.md console": _DOCS,
    "docs/text.md xml": "a test here reads it",
    "docs/training.md csv": "tests/app/cli/test_dataset.py",
    "docs/training.md sh": "a test here reads its commands",
}


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_documented_settings_exist(path: Path) -> None:
    named = set(re.findall(r"`([A-Z][A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", text_of(path)))
    assert named - EXTERNAL_VARIABLES <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_documented_metrics_exist(path: Path) -> None:
    known = {SCRAPE_COMPLETE} | {metric.name for metric in METRICS} | {family.name for family in FAMILIES}
    known |= {f"{metric.name}_total" for metric in METRICS if metric.type == "counter"}
    named = set(re.findall(r"\bcsm_[a-z_]+(?=[`{\[) ,])", text_of(path)))
    named = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named}
    assert named - {"csm_serve", "csm_serve_client", "csm_connection"} <= known


def test_every_metric_is_documented() -> None:
    page = text_of(DOCS / "monitoring.md")
    names = [SCRAPE_COMPLETE, *(metric.name for metric in METRICS)]
    assert [name for name in names if name not in page] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_anchors_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text_of(path)):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        page = (path.parent / name) if name else path
        assert page.exists(), target
        anchors = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings(page)}
        assert not heading or heading in anchors, target


def test_every_file_of_the_architecture_page_exists() -> None:
    page = text_of(DOCS / "architecture.md")
    named = set(re.findall(r"\b(?:app|engine|training|models|tests|docs|bench|scripts)/[\w./-]*\w", page))
    assert len(named) > 40
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_annotated_tree_of_the_readme_is_the_tree() -> None:
    """Every name in it exists, and every package and module of app/ and engine/ is listed."""
    tree = text_of(ROOT / "README.md").partition("## What is where")[2].split("```")[1]
    missing, listed = [], set()
    folder = ROOT
    for line in tree.strip().splitlines():
        names = re.split(r"\s{2,}", line.strip())[:-1]
        if not line.startswith(" "):
            folder = ROOT
        for name in names:
            path = folder / name
            missing += [] if path.exists() else [name]
            listed.add(path)
        if not line.startswith(" ") and names[0] in ("app/", "engine/"):
            folder = ROOT / names[0]
    assert missing == []
    sources = [path for name in ("app", "engine") for path in (ROOT / name).iterdir() if path.suffix in ("", ".py")]
    unlisted = [path for path in sources if path.name not in ("__init__.py", "__pycache__") and path not in listed]
    assert [path.relative_to(ROOT).as_posix() for path in unlisted if not _within(path, listed)] == []


def _within(path: Path, listed: set[Path]) -> bool:
    return any(path in each.parents for each in listed)


def test_documented_training_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    scripts = re.findall(r"^```sh\n(.*?)^```$", text_of(DOCS / "training.md"), re.MULTILINE | re.DOTALL)
    commands = [found for script in scripts for found in re.findall(r"^(?:[A-Z_]+=\S+ )?csm-serve (.+)$", script, re.M)]
    assert {command.split()[0] for command in commands} >= {"prepare", "cut", "train", "merge", "serve", "speak"}
    for command in commands:
        assert parser().parse_args(shlex.split(command)).command, command
    for name in ("prepare", "cut", "train", "merge"):
        with pytest.raises(SystemExit):
            parser().parse_args([name, "--help"])
    options = set(re.findall(r"`(--[a-z-]+)", text_of(DOCS / "training.md")))
    assert options <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_every_example_is_run_or_says_why_not() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "clients").glob("*/README.md")), *PAGES]
    found = {
        f"{page.relative_to(ROOT).as_posix()} {language}"
        for page in pages
        for language in re.findall(r"^ *```([a-z]+)$", text_of(page), re.MULTILINE)
    }
    assert found == EXAMPLES.keys()
    tests = [each for each in EXAMPLES.values() if each.startswith("tests/")]
    assert [each for each in tests if not (ROOT / each).is_file()] == []


def commands_of_the_service(page: Path) -> list[list[str]]:
    """The arguments of csm-serve in every console and shell block of a page."""
    found = []
    for block in re.findall(r"^ *```(?:console|sh|bash)\n(.*?)^ *```$", text_of(page), re.MULTILINE | re.DOTALL):
        for rest in re.findall(
            r"(?:^|[$|;] |\bdo |=\S+ |bin/)csm-serve (.+)$", re.sub(r"\\\n", "", block), re.MULTILINE
        ):
            words = shlex.shlex(rest.replace("…", "x"), posix=True, punctuation_chars=True)
            words.whitespace_split = True
            found.append(list(takewhile(lambda word: not set(word) <= set("|>;&()<"), words)))
    return found


def test_documented_commands_parse() -> None:
    pages = [ROOT / "README.md", *PAGES]
    commands = [command for page in pages for command in commands_of_the_service(page)]
    assert len(commands) > 30
    for command in commands:
        try:
            assert parser().parse_args(command).command, command
        except SystemExit:
            pytest.fail(f"the documentation has `csm-serve {shlex.join(command)}`, which does not parse")


def test_the_example_of_ssml_is_spoken() -> None:
    (example,) = re.findall(r"^```xml\n(.*?)^```$", text_of(DOCS / "text.md"), re.MULTILINE | re.DOTALL)
    assert [chunk.text for chunk in spoken_chunks(example, 1000)] == ["Your code is W three C.", "Thank you."]


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE) if page.suffix == ".md" else []


def test_the_compose_file_matches_the_image() -> None:
    compose = yaml.safe_load(text_of(DOCS / "deploy/compose.yaml"))
    service = compose["services"]["csm-serve"]
    declared = re.search(r"^VOLUME (\[.*\])$", text_of(ROOT / "Dockerfile"), re.MULTILINE)
    assert declared
    assert [volume.partition(":")[2] for volume in service["volumes"]] == json.loads(declared[1])
    assert {name.partition(":")[0] for name in service["volumes"]} == set(compose["volumes"])
    assert set(service["environment"]) <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", ["compose.yaml", "csm-serve.service"])
def test_the_stop_timeout_exceeds_the_graceful_timeout(name: str) -> None:
    found = re.search(r"(?:stop_grace_period: |TimeoutStopSec=)(\d+)", text_of(DOCS / "deploy" / name))
    assert found
    graceful = Settings.model_fields["graceful_timeout_seconds"].default
    assert int(found[1]) > graceful + 5  # the master's margin


def test_alerts_are_valid_rules() -> None:
    (group,) = yaml.safe_load(text_of(DOCS / "deploy/alerts.yml"))["groups"]
    assert all({"alert", "expr"} <= set(rule) for rule in group["rules"])
    assert yaml.safe_load(text_of(DOCS / "deploy/prometheus.yml"))["rule_files"] == ["alerts.yml"]


def test_nginx_accepts_uploads_and_does_not_buffer() -> None:
    text = text_of(DOCS / "deploy/nginx.conf")
    largest = re.search(r"client_max_body_size (\d+)m;", text)
    assert largest
    assert int(largest[1]) > Settings.model_fields["max_upload_mb"].default
    assert "proxy_buffering off;" in text
    assert "proxy_request_buffering off;" in text
    (log,) = re.findall(r"log_format [^;]+;", text)
    assert "$request " not in log  # its query may contain the key
    assert "$args" not in log
