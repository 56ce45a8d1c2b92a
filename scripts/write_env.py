"""Writes .env from .env.example for a first start, with a random API_KEY and a loopback address."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path


def first_env(example: str, key: str) -> str:
    """The example with API_KEY set to `key` and HOST to loopback; missing lines are appended."""
    text = example
    for name, value in (("API_KEY", key), ("HOST", "127.0.0.1")):
        line = f"{name}={value}"
        text, found = re.subn(rf"^#?\s*{name}=.*$", line, text, count=1, flags=re.MULTILINE)
        if not found:
            text = f"{text.rstrip()}\n{line}\n"
    return text


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    text = first_env((root / ".env.example").read_text(encoding="utf-8"), secrets.token_urlsafe(24))
    # Readable only by its owner from creation on, because it holds the key.
    with os.fdopen(os.open(root / ".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    print(
        "Wrote .env with a random API_KEY, listening on 127.0.0.1; `make serve HOST=0.0.0.0` opens it to the network."
    )


if __name__ == "__main__":
    main()
