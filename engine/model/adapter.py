"""PEFT's LoRA adapters, merged into their base's weights while these are read. Needs no peft."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .weights import SHARED_EMBEDDINGS, Tensors, open_tensors

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_PREFIX = "base_model.model."  # peft's, before the names of transformers' modules
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.default)?(\.weight)?")

# Options of LoraConfig that change what an adapter means, beyond alpha / rank * B A.
_UNSUPPORTED = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
    "velora_config", "fan_in_fan_out",
)  # fmt: skip
# Others than these also change the base's weights when training begins.
_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")


class Adapter:
    """A directory with adapter_config.json and adapter_model.safetensors.

    Raises CheckpointError naming the file and what it has that is not supported.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / ADAPTER_CONFIG
        self._config = self._read_config()
        self.tensors = _open_weights(directory)
        self.lora: dict[str, dict[str, str]] = {}  # factors "A" and "B" of each weight
        self.embeddings: set[str] = set()  # weights of embeddings, whose delta is stored transposed
        self.replaced: dict[str, str] = {}  # weights that are saved in full
        for name in self.tensors:
            self._add(name)
        for weight, factors in self.lora.items():
            if factors.keys() != {"A", "B"}:
                raise CheckpointError(
                    f"{directory / ADAPTER_WEIGHTS}: {weight!r} has lora_{min(factors)} but not the other factor"
                )

    @property
    def base(self) -> str:
        """The directory or hub id of the base. Raises CheckpointError if none is named."""
        base = self._config.get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise CheckpointError(f"{self._path}: base_model_name_or_path is {base!r}; it must name the adapter's base")
        return base

    @property
    def weights(self) -> set[str]:
        """The names of the base's weights that it changes."""
        return {*self.lora, *self.replaced}

    def delta(self, weight: str) -> Tensor:
        """What is added to a weight, in float32 and its shape: alpha / rank * B A."""
        a, b = (self.tensors.get(self.lora[weight][factor]) for factor in "AB")
        if a.ndim != 2 or b.ndim != 2:
            raise CheckpointError(
                f"{self.directory / ADAPTER_WEIGHTS}: {weight!r} belongs to a convolution; only LoRA on linear layers "
                "and embeddings is supported"
            )
        delta = (b.float() @ a.float()) * self._scale(weight, a.shape[0])
        return delta.T if weight in self.embeddings else delta

    def _scale(self, weight: str, rank: int) -> float:
        module = weight.removesuffix(".weight")
        alpha = self._config.get("lora_alpha", 8)
        for pattern, value in (self._config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = value
                break
        return float(alpha) / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def _read_config(self) -> dict[str, Any]:
        if not self._path.is_file():
            raise CheckpointError(
                f"{self._path}: is missing; an adapter is a directory that peft has saved, such as `adapter` in "
                "`csm-serve train`'s --out"
            )
        try:
            config = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self._path}: cannot be read: {error}") from error
        if not isinstance(config, dict) or config.get("peft_type") != "LORA":
            kind = config.get("peft_type") if isinstance(config, dict) else config
            raise CheckpointError(f"{self._path}: peft_type is {kind!r}; only 'LORA' is supported")
        for option in _UNSUPPORTED:
            if config.get(option):
                raise CheckpointError(
                    f"{self._path}: {option} is {config[option]!r}, which is not supported; {_ADVICE}"
                )
        if (kind := config.get("init_lora_weights", True)) not in _INITIALISATIONS:
            raise CheckpointError(
                f"{self._path}: init_lora_weights is {kind!r}, which changes the base's weights too; {_ADVICE}"
            )
        return config

    def _add(self, name: str) -> None:
        """Find out which of the base's weights a tensor belongs to."""
        inner = name.removeprefix(_PREFIX)
        if match := _LORA.fullmatch(inner):
            weight = f"{match['module']}.weight"
            self.lora.setdefault(weight, {})[match["factor"]] = name
            if match["embedding"]:
                self.embeddings.add(weight)
        elif inner == name or re.search(r"\.(lora|token_adapter|trainable_tokens)_", inner):
            raise CheckpointError(
                f"{self.directory / ADAPTER_WEIGHTS}: the tensor {name!r} is not one of LoRA or of modules_to_save; "
                f"{_ADVICE}"
            )
        else:
            for part in (".base_layer.", ".modules_to_save.default.", ".modules_to_save."):
                inner = inner.replace(part, ".")
            self.replaced[inner] = name


_ADVICE = "merge it with peft's merge_and_unload(), save the model and its tokenizer, and name that directory"


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and no complete checkpoint."""
    complete = (directory / "config.json").is_file() and any(directory.glob("*.safetensors.index.json"))
    return (
        (directory / ADAPTER_CONFIG).is_file()
        and not complete
        and not all((directory / name).is_file() for name in ("config.json", "model.safetensors"))
    )


def _open_weights(directory: Path) -> Tensors:
    if not (directory / ADAPTER_WEIGHTS).is_file() and (directory / "adapter_model.bin").is_file():
        raise CheckpointError(
            f"{directory}: its weights are adapter_model.bin, a format that can execute code; save the adapter as "
            f"{ADAPTER_WEIGHTS} (save_pretrained with safe_serialization=True)"
        )
    return open_tensors(directory, ADAPTER_WEIGHTS)


class AdaptedTensors(Tensors):
    """A base's tensors with an adapter's changes: sums in float32, other tensors as they are stored.

    Raises CheckpointError if the adapter changes a weight that the base does not have.
    """

    def __init__(self, base: Tensors, adapter: Adapter) -> None:
        self._base, self._adapter = base, adapter
        names = set(base)
        if not names.isdisjoint(SHARED_EMBEDDINGS):  # one tensor may be stored for both
            names |= set(SHARED_EMBEDDINGS)
        if unknown := adapter.weights - names:
            raise CheckpointError(
                f"{adapter.directory / ADAPTER_WEIGHTS}: changes {min(unknown)!r}, which {adapter.base} does not have; "
                "adapters must be for transformers' CsmForConditionalGeneration"
            )
        self._names = [*base, *sorted(adapter.weights - set(base))]

    @property
    def unties_embeddings(self) -> bool:
        """Whether the two transformers' audio embeddings differ afterwards, even if the base shares them."""
        return not self._adapter.weights.isdisjoint(SHARED_EMBEDDINGS)

    def __contains__(self, name: str) -> bool:
        return name in self._base or name in self._adapter.weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def get(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        if (replacement := self._adapter.replaced.get(name)) is not None:
            tensor = self._adapter.tensors.get(replacement, shape)
        else:
            source = name
            if name not in self._base and name in SHARED_EMBEDDINGS:
                source = next(each for each in SHARED_EMBEDDINGS if each in self._base)
            tensor = self._base.get(source, shape)
        if name not in self._adapter.lora:
            return tensor
        delta = self._adapter.delta(name)
        if delta.shape != tensor.shape:
            raise CheckpointError(
                f"{self._adapter.directory / ADAPTER_WEIGHTS}: {name!r} has shape {tuple(delta.shape)}, but in "
                f"{self._adapter.base} {tuple(tensor.shape)}"
            )
        return tensor.float() + delta
