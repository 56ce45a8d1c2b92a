"""LoRA adapters that peft writes, for tests."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # the codec has some too


def write_adapter(directory: Path, model: Any, base: str, seed: int = 0, **options: Any) -> Any:
    """Write a random adapter with these options of LoraConfig, and return the adapted copy of the model."""
    torch.manual_seed(seed)
    config = LoraConfig(**({"r": 4, "init_lora_weights": False} | options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's: of tied embeddings, and a name that transformers 5 deprecates
        adapted = get_peft_model(copy.deepcopy(model), config)
        for name, parameter in adapted.named_parameters():
            if ".modules_to_save." in name:
                parameter.data += 0.05 * torch.randn(parameter.shape)
            elif ".lora_" in name:
                parameter.data *= 3  # enough to change the codes
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(str(directory), save_embedding_layers=False)  # else it asks the hub
    return adapted
