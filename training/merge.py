"""csm-serve merge: adds an adapter to its base and writes the result as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from engine.model.adapter import AdaptedTensors, Adapter
from engine.model.checkpoint import check_directory, find_checkpoint, preferred_weights_file
from engine.model.weights import open_tensors

from .base_checkpoint import ADAPTER_METADATA, checkpoint_fingerprint
from .errors import BaseCheckpointError
from .export import export_model


def merge(adapter: str, out: Path, base: str | None = None, token: str | None = None) -> Path:
    """Write `out`, in the base's dtype: rounded once, after the sum.

    adapter: a directory or a hub id, of `csm-serve train` or of peft. base: a directory or a hub id; None takes the one
    that the adapter names. Raises CheckpointNotFound, CheckpointError, BaseCheckpointError (another base's adapter) and
    FileExistsError.
    """
    opened = Adapter(find_checkpoint(adapter, token))
    name = base or opened.base
    directory = find_checkpoint(name, token)
    check_directory(directory)
    _check_base(opened.directory, name, directory)
    source = open_tensors(directory, preferred_weights_file(directory))
    adapted, dtype = AdaptedTensors(source, opened), source.get("lm_head.weight").dtype
    return export_model(directory, {name: adapted.get(name).to(dtype) for name in adapted}, out, adapted=adapted)


def _check_base(adapter: Path, name: str, directory: Path) -> None:
    """`csm-serve train` writes the fingerprint of its base beside the adapter; others write none."""
    path = adapter / ADAPTER_METADATA
    if not path.is_file():
        return
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        fingerprint, trained_on = str(metadata["identity"]), str(metadata["base"])
    except (ValueError, KeyError, TypeError) as error:
        raise BaseCheckpointError(f"{path}: is damaged ({error!r})") from error
    if fingerprint != checkpoint_fingerprint(directory):
        raise BaseCheckpointError(
            f"{adapter} was trained on {trained_on}, whose weights differ from those of {name}: merge it with the "
            "checkpoint that it was trained on"
        )
