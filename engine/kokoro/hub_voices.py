"""Kokoro's own English styles from the Hugging Face Hub: the installed packages have Japanese ones only."""

from __future__ import annotations

from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
from huggingface_hub import constants

from ..errors import CheckpointError
from ..fallback.espeak_library import EspeakLibrary
from .model import MAX_TOKENS, STYLE_SIZE, KokoroModel, Styles
from .phonemes import tokens_of, transcribe
from .voices import KokoroVoice

# In the order of the speaker numbers, two women's and two men's: those that Kokoro's authors rate best.
STYLES = ("af_heart", "am_michael", "af_bella", "am_fenrir")
_PATIENCE_SECONDS = 3.0  # for the Hub's first answer
_LARGEST = 100.0  # no value of a style is near it
_SENTENCES = "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background."
_VOWEL = 2.0  # energy from which on a frame is one
_PITCH_RATIO = 1.1  # of the audio's median pitch to that which the model predicts for its vowels: 1.03 to 1.15


def fetch_styles(repository: str, token: str | None) -> dict[str, Styles]:
    """The styles of STYLES, from the Hub's cache if it has them all.

    A file is voices/NAME.bin, raw float32 in little-endian order, as the repository onnx-community/Kokoro-82M-v1.0-ONNX
    has it. Raises CheckpointError if one cannot be had or is something else.
    """
    try:
        paths = _cached(repository) or _downloaded(repository, token)
        return {name: _read(path) for name, path in zip(STYLES, paths, strict=True)}
    except Exception as error:  # the Hub client's, its HTTP library's, the file system's
        raise CheckpointError(f"{repository}: {error}") from error


def _cached(repository: str) -> list[Path]:
    """Empty unless all are there."""
    paths = [huggingface_hub.try_to_load_from_cache(repository, _file(name)) for name in STYLES]
    found = [Path(path) for path in paths if isinstance(path, str)]
    return found if len(found) == len(STYLES) else []


def _downloaded(repository: str, token: str | None) -> list[Path]:
    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    # Asked once and briefly: the client would try again for half a minute where there is no network.
    url = huggingface_hub.hf_hub_url(repository, _file(STYLES[0]))
    secret = token or huggingface_hub.get_token()
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    answer = httpx.head(url, headers=headers, timeout=_PATIENCE_SECONDS)
    if answer.is_error:
        raise OSError(f"{url}: the Hub answered {answer.status_code} {answer.reason_phrase}")
    return [Path(huggingface_hub.hf_hub_download(repository, _file(name), token=token)) for name in STYLES]


def _file(name: str) -> str:
    return f"voices/{name}.bin"


def _read(path: Path) -> Styles:
    values = np.fromfile(path, "<f4")
    if values.size != MAX_TOKENS * STYLE_SIZE or not np.abs(values).max() < _LARGEST:  # or not a number
        raise ValueError(f"{path} is no style of Kokoro's: {MAX_TOKENS * STYLE_SIZE} numbers are expected")
    return values.astype(np.float32).reshape(MAX_TOKENS, STYLE_SIZE)


def voices_of(styles: dict[str, Styles], model: KokoroModel, library: EspeakLibrary) -> tuple[KokoroVoice, ...]:
    """A voice of each of these styles, which are added to the model, with the pitch that the model predicts."""
    model.add_styles(styles)
    tokens = tokens_of(transcribe(_SENTENCES, library))[0]
    voices = []
    for style in styles:
        prosody = model.prosody(tokens, {style: 1.0})
        hertz = _PITCH_RATIO * float(np.median(prosody.pitch[prosody.energy > _VOWEL]))
        voices.append(KokoroVoice(style.partition("_")[2], {style: 1.0}, hertz))
    return tuple(voices)
