"""Example commands printed at startup: one with curl, one with csm-serve speak."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from csm_serve_client.environment import local_url

from ..settings import Settings
from ..settings_loader import read_env_file

_TEXT = "Hello! This is my voice, and it begins before the sentence has an end."


def curl_line(settings: Settings, env_file: Path, environ: Mapping[str, str]) -> str:
    """A curl command that writes speech.wav. The shell reads the key; it is not part of the line."""
    url = f"{local_url(settings.host, settings.port)}/tts/generate?{urlencode({'text': _TEXT})}"
    return f'curl -fsS -o speech.wav -H "X-API-Key: {_key_from(env_file, environ)}" {shlex.quote(url)}'


def speak_line(settings: Settings, env_file: Path, environ: Mapping[str, str]) -> str:
    """The same with `csm-serve speak`, which reads the key from the environment or the file itself."""
    installed = Path(sys.executable).with_name("csm-serve")
    program = shlex.quote(str(installed)) if installed.exists() else "csm-serve"
    line = f"{program} speak --url {local_url(settings.host, settings.port)} -o speech.wav {shlex.quote(_TEXT)}"
    return line if environ.get("API_KEY") else f"cd {shlex.quote(str(env_file.resolve().parent))} && {line}"


def _key_from(env_file: Path, environ: Mapping[str, str]) -> str:
    """The shell expression for the first key, from the variable or from the file."""
    if environ.get("API_KEY") or "API_KEY" not in read_env_file(env_file):
        return "${API_KEY%%,*}"
    path = shlex.quote(str(env_file.resolve()))
    plain = re.search(r"^API_KEY=[^\s'\"#]+$", env_file.read_text(encoding="utf-8"), re.MULTILINE)
    unquoted = "" if plain else ' | tr -d "\\"\' "'
    return f"$(sed -n 's/^\\(export  *\\)\\{{0,1\\}}API_KEY *= *//p' {path} | tail -n 1{unquoted} | cut -d, -f1)"
