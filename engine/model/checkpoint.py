"""Opens a checkpoint: a local directory or a Hugging Face Hub repository, and PEFT's adapters of either kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from ..config import HOW_TO_GET_WEIGHTS, SESAME_REPOSITORY
from ..errors import CheckpointError, CheckpointNotFound
from .adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdaptedTensors, Adapter, is_adapter
from .config import CsmConfig, read_config
from .hub import FileSource, Report, cached, download_large, downloaded
from .weights import Tensors, open_tensors

_TRANSFORMERS_INDEX, _INDEX, _FILE = (
    "transformers.safetensors.index.json",
    "model.safetensors.index.json",
    "model.safetensors",
)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    directory: holds config.json and tokenizer.json. adapter: the directory of the adapter that `tensors` includes.
    fingerprint: short, identifies all of it.
    """

    directory: Path
    adapter: Path | None
    config: CsmConfig
    tensors: Tensors
    fingerprint: str


def open_checkpoint(model: str, token: str | None, report: Report = lambda share, activity: None) -> Checkpoint:
    """Open a checkpoint, or an adapter on its base, downloading missing files.

    model: a directory, or a Hub id "owner/name". report: called with the share of the download that is done.
    Raises CheckpointNotFound with instructions for getting the weights, CheckpointError.
    """
    directory = find_checkpoint(model, token, report)
    if not is_adapter(directory):
        check_directory(directory)
        config = read_config(directory / "config.json")
        tensors = open_tensors(directory, preferred_weights_file(directory))
        return Checkpoint(directory, None, config, tensors, fingerprint(directory))
    adapter = Adapter(directory)
    try:
        base = open_checkpoint(adapter.base, token, report)
    except CheckpointNotFound as error:
        raise CheckpointNotFound(
            f"{model} is an adapter on {adapter.base}, which is not available: {error}. With another copy of that "
            f"model: `csm-serve merge --base MODEL --adapter {model} NEW`"
        ) from error
    if base.adapter is not None:
        raise CheckpointError(f"{model}: its base, {adapter.base}, is an adapter too; merge that one first")
    adapted = AdaptedTensors(base.tensors, adapter)
    config = replace(base.config, tied_embeddings=False) if adapted.unties_embeddings else base.config
    return Checkpoint(base.directory, directory, config, adapted, fingerprint(base.directory, directory))


def find_checkpoint(model: str, token: str | None, report: Report = lambda share, activity: None) -> Path:
    """Return a directory with a checkpoint or an adapter, downloading missing files.

    Raises CheckpointNotFound with instructions for getting the weights.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        return directory
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise CheckpointNotFound(f"{model}: no such directory. {HOW_TO_GET_WEIGHTS}")
    try:
        return _from_hub(cached(model), lambda names: None)
    except EntryNotFoundError:  # not completely cached
        pass
    if model == SESAME_REPOSITORY and token is None and huggingface_hub.get_token() is None:
        raise CheckpointNotFound(f"{model} is gated and no token is set. {HOW_TO_GET_WEIGHTS}")
    try:
        return _from_hub(downloaded(model, token), lambda names: download_large(model, names, token, report))
    except GatedRepoError as error:
        raise CheckpointNotFound(f"{model} is gated: {_access(model, token)}. {HOW_TO_GET_WEIGHTS}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointNotFound(
            f"{model}: the Hub has no such repository, or it is private and {_access(model, token)}. "
            f"{HOW_TO_GET_WEIGHTS}"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointNotFound(f"{model}: could not be downloaded: {error}. {HOW_TO_GET_WEIGHTS}") from error


def _access(model: str, token: str | None) -> str:
    """What is missing, for a repository that refuses."""
    if token is None and huggingface_hub.get_token() is None:
        return f"no token is set (accept its conditions at huggingface.co/{model}, make a token, set HF_TOKEN to it)"
    return f"this token has no access to it (accept its conditions at huggingface.co/{model})"


def _from_hub(fetch: FileSource, fetch_large: Callable[[list[str]], None]) -> Path:
    """Fetch all required files and return the directory they are in: a checkpoint's or, if there is none, an adapter's.

    fetch_large: prepares large files, so that `fetch` finds them.
    """
    try:
        return _fetch_checkpoint(fetch, fetch_large)
    except LocalEntryNotFoundError:  # the Hub cannot be reached
        raise
    except EntryNotFoundError as missing:
        try:
            config = fetch(ADAPTER_CONFIG)
        except EntryNotFoundError:
            raise missing from None
        fetch_large([ADAPTER_WEIGHTS])
        fetch(ADAPTER_WEIGHTS)
        return config.parent


def _fetch_checkpoint(fetch: FileSource, fetch_large: Callable[[list[str]], None]) -> Path:
    config = fetch("config.json")
    fetch("tokenizer.json")
    weights = [_FILE]
    for index in (_TRANSFORMERS_INDEX, _INDEX):
        try:
            weights = sorted(set(json.loads(fetch(index).read_text(encoding="utf-8"))["weight_map"].values()))
            break
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            continue
    fetch_large(weights)
    for name in weights:
        fetch(name)
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


_SAMPLES, _SAMPLE_BYTES = 64, 1 << 12


def fingerprint(*directories: Path) -> str:
    """A short hash that identifies these files: names, sizes and, evenly spaced over each file, 64 blocks of 4 KiB.

    The first bytes do not suffice: of CSM-1B's weights they are the index alone, the same for every fine-tune.
    """
    digest = hashlib.sha256()
    for path in (path for directory in directories for path in sorted(directory.glob("*"))):
        if path.suffix not in (".json", ".safetensors") or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for number in range(_SAMPLES):
                file.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def check_directory(directory: Path) -> None:
    """Raises CheckpointError naming the first file that is missing."""
    if is_adapter(directory):
        raise CheckpointError(
            f"{directory} is an adapter; merge it with its base first: `csm-serve merge --adapter {directory} NEW`"
        )
    for name in ("config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name}: is missing")
