"""LoRA adapters on CSM's backbone and depth decoder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from .base_checkpoint import ADAPTER_METADATA, BaseCheckpoint

# All linear layers of both transformers and the projection between them. The codec has layers of the same names.
TARGETS = (
    r"(backbone_model|depth_decoder\.model)\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    r"|depth_decoder\.model\.inputs_embeds_projector"
)
HEADS = ("lm_head", "codebooks_head")


@dataclass(frozen=True)
class LoraSettings:
    """rank: of the LoRA matrices. alpha: their product is scaled by alpha / rank; None means twice the rank.

    heads: also train the output heads in full; they are state in the adapter. Embeddings are never trained: backbone
    and depth decoder share them, and an adapter for one of the two would untie them.
    """

    rank: int = 32
    alpha: int | None = None
    dropout: float = 0.0
    heads: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the rank is {self.rank}, but must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"the dropout is {self.dropout}, but must be from 0 to below 1")


def add_lora(base: BaseCheckpoint, settings: LoraSettings, seed: int) -> PeftModel:
    """Add LoRA layers to the base's model in place; afterwards only they require gradients, in float32."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank if settings.alpha is None else settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=TARGETS,
        modules_to_save=list(HEADS) if settings.heads else None,
    )
    with suppress_peft_warnings():
        adapted = get_peft_model(base.model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def write_adapter(adapted: PeftModel, base: BaseCheckpoint, directory: Path) -> None:
    """Write a directory that peft loads, and the fingerprint of its base checkpoint."""
    adapted.peft_config["default"].base_model_name_or_path = _base_name(base)  # peft took the path in the hub's cache
    adapted.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card template
    metadata = {"base": _base_name(base), "identity": base.fingerprint}
    (directory / ADAPTER_METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def _base_name(base: BaseCheckpoint) -> str:
    """A hub id, or an absolute path: the adapter is used from other directories too."""
    path = Path(base.name).expanduser()
    return str(path.resolve()) if path.is_dir() else base.name


@contextmanager
def suppress_peft_warnings() -> Iterator[None]:
    """Suppress peft's false warnings under transformers 5: a deprecated name and an output head taken for tied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        yield


def merged_tensors(model: Any) -> dict[str, Tensor]:
    """CsmForConditionalGeneration's weights under their original names, with LoRA's deltas added.

    Sums are computed in float32 and cast to the dtype of the weight that they replace. The model is unchanged.
    """
    state: dict[str, Tensor] = model.state_dict()
    lora_layers = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    tensors = {}
    for peft_name, weight in state.items():
        if ".lora_" in peft_name or ".original_module." in peft_name:
            continue
        name = peft_name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
        merged = (
            weight.float() + lora_layers[name].get_delta_weight("default").float() if name in lora_layers else weight
        )
        tensors[name] = merged.to(state[peft_name.replace(".modules_to_save.default.", ".original_module.")].dtype)
    return tensors
