"""A tiny streaming decoder with random weights, for tests of the codec."""

from __future__ import annotations

from typing import Any

import torch

from engine.codec.decoder import MimiDecoder
from engine.codec.mimi import load_transformers_mimi

from . import checkpoints


class StateDict:
    """Tensors as the loader reads them from a file."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self._state = state

    def get(self, name: str) -> torch.Tensor:
        return self._state[name]


def tiny_decoder(device: torch.device, **changes: Any) -> MimiDecoder:
    """changes: of the checkpoint's shape, with codec_ before the codec's."""
    model = checkpoints.build_model(**changes)
    tensors: Any = StateDict({f"codec_model.{name}": each for name, each in model.codec_model.state_dict().items()})
    return load_transformers_mimi(model.config.codec_config, tensors, model.config.num_codebooks, device).decoder
