"""Locates a checkpoint: a local directory, or a Hugging Face Hub repository that is downloaded file by file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from ..errors import CheckpointError, CheckpointNotFound

SESAME_REPOSITORY = "sesame/csm-1b"
HOW_TO_GET_IT = (
    f"To get CSM's weights: ask for access at huggingface.co/{SESAME_REPOSITORY}, make a token, and set "
    "HF_TOKEN to it; or set MODEL_PATH to a directory that holds them"
)
_TRANSFORMERS_INDEX, _INDEX, _FILE = (
    "transformers.safetensors.index.json",
    "model.safetensors.index.json",
    "model.safetensors",
)


def find_checkpoint(model: str, token: str | None) -> Path:
    """Return a directory with config.json, tokenizer.json and weights, downloading missing files.

    model: a directory, or a Hub id "owner/name". The Hub client shows its progress bars on standard error.
    Raises CheckpointNotFound with instructions for getting the weights.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        return directory
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise CheckpointNotFound(f"{model}: no such directory. {HOW_TO_GET_IT}")
    try:
        return _from_hub(lambda name: _cached(model, name))
    except EntryNotFoundError:  # not completely cached
        pass
    if model == SESAME_REPOSITORY and token is None and huggingface_hub.get_token() is None:
        raise CheckpointNotFound(f"{model} is gated and no token is set. {HOW_TO_GET_IT}")
    try:
        return _from_hub(lambda name: Path(huggingface_hub.hf_hub_download(model, name, token=token)))
    except GatedRepoError as error:
        raise CheckpointNotFound(f"{model} is gated and this token has no access to it. {HOW_TO_GET_IT}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointNotFound(f"{model}: the Hub has no such repository, or it is private") from error
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointNotFound(f"{model}: could not be downloaded: {error}. {HOW_TO_GET_IT}") from error


def _cached(repository: str, name: str) -> Path:
    path = huggingface_hub.try_to_load_from_cache(repository, name)
    if not isinstance(path, str):
        raise EntryNotFoundError(f"{repository}/{name} is not in the cache")
    return Path(path)


def _from_hub(fetch: Callable[[str], Path]) -> Path:
    """Fetch all required files with `fetch` and return the directory they are in."""
    config = fetch("config.json")
    fetch("tokenizer.json")
    for index in (_TRANSFORMERS_INDEX, _INDEX):
        try:
            shards = set(json.loads(fetch(index).read_text(encoding="utf-8"))["weight_map"].values())
        except EntryNotFoundError:
            continue
        for shard in sorted(shards):
            fetch(str(shard))
        return config.parent
    fetch(_FILE)
    return config.parent


def preferred_weights_file(directory: Path) -> str | None:
    """The weights file to read if there are several: config.json's `transformers_weights`, else transformers' index."""
    try:
        named = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        named = None  # read_config reports the error
    for name in (named, _TRANSFORMERS_INDEX):
        if isinstance(name, str) and (directory / name).is_file():
            return name
    return None


def fingerprint(directory: Path) -> str:
    """A short hash that identifies these files, computed from names, sizes and the first 64 KiB of each."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*")):
        if path.suffix in (".json", ".safetensors") and path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(1 << 16))
    return digest.hexdigest()[:12]


def check_directory(directory: Path) -> None:
    """Raises CheckpointError naming the first file that is missing."""
    for name in ("config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name}: is missing")
