"""The log: one line a record, as text or as JSON, and never a key in it."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence

from ..settings import Settings

_SHORTEST_SECRET = 8  # shorter ones are parts of ordinary words: hiding those would garble every line
_HIDDEN = "[hidden]"


class _Formatter(logging.Formatter):
    """Hides secrets in the finished line. Nothing writes them on purpose; this is the second lock on that door."""

    converter = staticmethod(time.gmtime)

    def __init__(self, pattern: str | None, secrets: Sequence[str]) -> None:
        super().__init__(pattern, "%Y-%m-%dT%H:%M:%SZ")
        self._secrets = [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]

    def hide(self, line: str) -> str:
        for secret in self._secrets:
            line = line.replace(secret, _HIDDEN).replace(json.dumps(secret)[1:-1], _HIDDEN)
        return line

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        pairs = "".join(f" {name}={value}" for name, value in fields.items() if value is not None)
        return self.hide(super().format(record) + pairs)


class TextFormatter(_Formatter):
    """`2026-01-31T12:00:00Z INFO app.requests request id=… status=200`."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s", secrets)


class JsonFormatter(_Formatter):
    """One object a line: time, level, logger, process, message, and the fields of the record."""

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
    """Its message says all there is to know: where it is logged, it is one line and no traceback."""


def _plainly(record: logging.LogRecord) -> bool:
    """Uvicorn logs whatever an application raises with ninety lines of where it came through."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, PlainError):
        record.msg, record.args, record.exc_info = str(error), (), None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def configure_logging(settings: Settings) -> None:
    """Send everything that this process logs to stderr, in the form that the settings ask for."""
    secrets = [*settings.keys, *(each.get_secret_value() for each in (settings.hf_token,) if each is not None)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(secrets) if settings.log_format == "json" else TextFormatter(secrets))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in ("gunicorn.error", "uvicorn.error", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    logging.getLogger("uvicorn.error").addFilter(_plainly)  # the same each time: it is there but once
    for name in ("httpx", "httpcore", "urllib3", "filelock"):  # of libraries, at each request they make
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
