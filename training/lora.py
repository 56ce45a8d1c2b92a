"""LoRA on CSM's two transformers: few weights beside the many, which stay as they are."""

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

from .base_model import BaseModel
from .errors import BaseError

# All linear layers of both transformers, and the bridge between them. The codec has layers of the same names.
TARGETS = (
    r"(backbone_model|depth_decoder\.model)\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    r"|depth_decoder\.model\.inputs_embeds_projector"
)
HEADS = ("lm_head", "codebooks_head")
_NOTE = "csm_adapter.json"


@dataclass(frozen=True)
class LoraSettings:
    """rank: of the matrices beside each layer. alpha: their sum counts alpha / rank; None is twice the rank.

    heads: train the output heads too, whole; they go into the adapter as they are. Embeddings are never trained
    here: the backbone and the depth decoder share them, and an adapter that changes one of both would part them.
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


def add_lora(base: BaseModel, settings: LoraSettings, seed: int) -> PeftModel:
    """Put LoRA layers into the base's model, in place; from here on they alone require gradients, in float32."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank if settings.alpha is None else settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=TARGETS,
        modules_to_save=list(HEADS) if settings.heads else None,
        base_model_name_or_path=base.name,
    )
    with _quietly():
        adapted = get_peft_model(base.model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def write_adapter(adapted: PeftModel, base: BaseModel, directory: Path) -> None:
    """A directory that peft loads, and beside it which checkpoint it belongs to."""
    adapted.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # a form that nobody has filled in
    note = {"base": base.name, "identity": base.identity}
    (directory / _NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def load_adapter(base: BaseModel, directory: Path) -> PeftModel:
    """Put an adapter's layers into the base's model. Raises BaseError if it is none, or belongs to another base."""
    for name in ("adapter_config.json", "adapter_model.safetensors", _NOTE):
        if not (directory / name).is_file():
            raise BaseError(f"{directory / name}: is missing; an adapter is what `csm-serve train` leaves in its --out")
    try:
        note = json.loads((directory / _NOTE).read_text(encoding="utf-8"))
        theirs, called = str(note["identity"]), str(note["base"])
    except (ValueError, KeyError, TypeError) as error:
        raise BaseError(f"{directory / _NOTE}: is damaged: {error!r}") from error
    if theirs != base.identity:
        raise BaseError(
            f"{directory} was trained on {called}, whose weights are others than those of {base.name}: merge it with "
            "the checkpoint that it was trained on"
        )
    with _quietly():
        return PeftModel.from_pretrained(base.model, str(directory))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without peft's false alarms under transformers 5: a name that is going, and a head that it takes for tied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        yield


def merged_tensors(model: Any) -> dict[str, Tensor]:
    """All weights of CsmForConditionalGeneration under their own names, what LoRA adds added; the model stays as it is.

    A sum is made in float32 and given the dtype of the weight that it replaces.
    """
    stored: dict[str, Tensor] = model.state_dict()
    adding = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    tensors = {}
    for long_name, weight in stored.items():
        if ".lora_" in long_name or ".original_module." in long_name:
            continue
        name = long_name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
        merged = weight.float() + adding[name].get_delta_weight("default").float() if name in adding else weight
        tensors[name] = merged.to(stored[long_name.replace(".modules_to_save.default.", ".original_module.")].dtype)
    return tensors
