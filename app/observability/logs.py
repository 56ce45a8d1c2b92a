"""Logging: one line per record, as text or as JSON, with secrets hidden."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence

from ..settings import Settings

_MIN_SECRET_LENGTH = 8  # hiding shorter ones would garble ordinary words
_HIDDEN = "[hidden]"


class _Formatter(logging.Formatter):
    """Hides secrets in the finished line, as a second protection: nothing logs them on purpose."""

    converter = staticmethod(time.gmtime)

    def __init__(self, pattern: str | None, secrets: Sequence[str]) -> None:
        super().__init__(pattern, "%Y-%m-%dT%H:%M:%SZ")
        self._secrets = [secret for secret in secrets if len(secret) >= _MIN_SECRET_LENGTH]

    def hide(self, line: str) -> str:
        for secret in self._secrets:
            line = line.replace(secret, _HIDDEN).replace(json.dumps(secret)[1:-1], _HIDDEN)
        return line

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        pairs = "".join(f" {name}={_quoted(str(value))}" for name, value in fields.items() if value is not None)
        return self.hide(super().format(record) + pairs)


class TextFormatter(_Formatter):
    """`2026-01-31T12:00:00Z INFO app.requests request id=… status=200`."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s", secrets)


def _quoted(value: str) -> str:
    """The value, as a JSON string where a space, a quote or an unprintable character would garble the line."""
    if value.isprintable() and not set(value) & set(' "'):
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


class JsonFormatter(_Formatter):
    """One object per line: time, level, logger, process, message, and the fields of the record."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(None, secrets)

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": self.formatTime(record, self.datefmt),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return self.hide(json.dumps(entry, ensure_ascii=False, default=str))


class PlainError(Exception):
    """Logged as one line without a traceback: its message is complete."""


def _without_traceback(record: logging.LogRecord) -> bool:
    """Log a PlainError as a warning; uvicorn logs exceptions of the application with ninety lines of traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, PlainError):
        record.msg, record.args, record.exc_info = str(error), (), None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def configure_logging(settings: Settings) -> None:
    """Send all log records of this process to stderr, in the configured format."""
    secrets = settings.secrets
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(secrets) if settings.log_format == "json" else TextFormatter(secrets))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in ("gunicorn.error", "uvicorn.error", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    logging.getLogger("uvicorn.error").addFilter(_without_traceback)  # added once: it is the same object each time
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the errors that it raises, with tracebacks
    for name in ("httpx", "httpcore", "urllib3", "filelock", "aiobotocore", "azure"):  # they log each of their requests
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
