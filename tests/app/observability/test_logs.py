from __future__ import annotations

import json
import logging
import sys

import pytest

from app.observability.logs import JsonFormatter, PlainError, TextFormatter, configure_logging
from app.settings import Settings

SECRET = 'very"secret-key'


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("app.test", logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_fields_follow_the_message() -> None:
    line = TextFormatter([]).format(record("request", fields={"id": "a", "status": 200, "voice": None}))
    assert line.endswith("app.test: request id=a status=200")


@pytest.mark.parametrize(
    ("voice", "shown"),
    [
        ("Stimme-ä.wav", "Stimme-ä.wav"),
        ("my voice (1).wav", '"my voice (1).wav"'),
        ("a\nb", '"a\\nb"'),
        ("a\u2028ä", '"a\\u2028\\u00e4"'),
    ],
)
def test_a_value_neither_ends_nor_garbles_the_line(voice: str, shown: str) -> None:
    line = TextFormatter([]).format(record("request", fields={"voice": voice, "status": 200}))
    assert line.endswith(f"app.test: request voice={shown} status=200")


def test_json_is_one_object_per_line() -> None:
    entry = json.loads(JsonFormatter([]).format(record("two\nlines", fields={"status": 200})))
    assert (entry["message"], entry["status"], entry["level"]) == ("two\nlines", 200, "INFO")


def test_secrets_are_hidden_everywhere() -> None:
    try:
        raise RuntimeError(f"wrong key {SECRET}")
    except RuntimeError:
        failed = record(f"a {SECRET}", fields={"path": f"/{SECRET}"}, exc_info=sys.exc_info())
    text, entry = TextFormatter([SECRET]).format(failed), JsonFormatter([SECRET]).format(failed)
    for line in (text, entry):
        assert "secret-key" not in line
        assert line.count("[hidden]") >= 3
    assert json.loads(entry)["path"] == "/[hidden]"


def test_short_keys_do_not_garble_ordinary_words() -> None:
    assert "request" in TextFormatter(["e"]).format(record("request"))


@pytest.mark.parametrize(("error", "lines"), [(PlainError("request a was cut"), 1), (RuntimeError("a bug"), 4)])
def test_a_plain_error_is_logged_as_one_line(
    settings: Settings, capsys: pytest.CaptureFixture[str], error: Exception, lines: int
) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers
    try:
        configure_logging(settings)
        try:
            raise error
        except Exception:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
        told = capsys.readouterr().err
    finally:
        root.handlers = before
    assert str(error) in told
    assert len(told.splitlines()) >= lines
    assert (len(told.splitlines()) == 1) == (lines == 1)
