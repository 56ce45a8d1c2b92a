"""The one line that a stranger pastes to hear the service for the first time."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from .settings import Settings, local_url, read_env_file

_TEXT = "Hello! This is my voice, and it begins before the sentence has an end."


def curl_line(settings: Settings, env_file: Path, environ: Mapping[str, str]) -> str:
    """A curl command that makes speech.wav. The key is read when it is pasted and stands nowhere in it."""
    url = f"{local_url(settings.host, settings.port)}/tts/generate?{urlencode({'text': _TEXT})}"
    return f'curl -fsS -o speech.wav -H "X-API-Key: {_key_from(env_file, environ)}" {shlex.quote(url)}'


def _key_from(env_file: Path, environ: Mapping[str, str]) -> str:
    """What a shell reads the first key with: from the variable, or from the line of the file."""
    if environ.get("API_KEY") or "API_KEY" not in read_env_file(env_file):
        return "${API_KEY%%,*}"
    path = shlex.quote(str(env_file.resolve()))
    plain = re.search(r"^API_KEY=[^\s'\"#]+$", env_file.read_text(encoding="utf-8"), re.MULTILINE)
    unquoted = "" if plain else ' | tr -d "\\"\' "'
    return f"$(sed -n 's/^\\(export  *\\)\\{{0,1\\}}API_KEY *= *//p' {path} | tail -n 1{unquoted} | cut -d, -f1)"
