"""The persistent kernel with its buffers: all codes of a frame, for up to four rows, in one launch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..csm import CsmModel, StepState
from .packing import MAX_ROWS, POSITIONS, TILE_ROWS, WARPS, PackedDepth

THREADS = 32 * WARPS + 32
_MIN_RING = 2
_TOKENS = 2 * MAX_ROWS
_MAX_RING = 16
_MIXED_PADDING = 8
_BARRIERS_BYTES = 1024  # no less than the kernel's `Shared`
_PATIENCE = 2_000_000_000  # nanoseconds
_FIELDS = ("seed", "frame", "top_k", "unconditional", "sampler", "temperature_first", "temperature", "guidance")
_POINTERS = (
    *("opening", "layers", "heads", "norms", "cos", "sin", "inputs", "backbone_norm", "backbone", *_FIELDS, "codes"),
    *("first", "q", "keys", "values", "attended", "gated", "updated", "logits", "arrivals", "leavers", "fault"),
)


class Params(ctypes.Structure):
    """depth.cu's Params."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("patience", ctypes.c_uint64),
        ("backbone_eps", ctypes.c_float),
        ("eps", ctypes.c_float),
        ("attention_scale", ctypes.c_float),
        ("rows", ctypes.c_int),
        ("layer_slots", ctypes.c_int),
        ("fatal", ctypes.c_int),
    )


class Kernel(Protocol):
    """The compiled kernel, see cuda_program.CooperativeKernel."""

    def launch(self, parameters: ctypes.Structure, stream: int) -> None: ...


@dataclass(frozen=True)
class KernelShape:
    """What depth.cu is compiled for and launched with."""

    macros: dict[str, int]
    blocks: int
    shared_bytes: int  # of a block
    threads: int = THREADS

    @staticmethod
    def of(model: CsmModel, state: StepState, shared_bytes: int) -> KernelShape:
        """shared_bytes: that a block may have, which the ring of weights fills. Raises ValueError if they are few."""
        config, vocab = model.config, model.sampled_vocab
        depth, blocks = config.depth, config.depth.hidden // TILE_ROWS
        slots = max(depth.intermediate // 4 // blocks, vocab // TILE_ROWS // blocks + 1)
        sums = slots * WARPS * _TOKENS * TILE_ROWS * 4
        others = sums + _TOKENS * (depth.hidden + _MIXED_PADDING) * 2 + _BARRIERS_BYTES
        tile = 2 * TILE_ROWS * depth.hidden
        ring = min((shared_bytes - others) // tile, _MAX_RING)
        if ring < _MIN_RING:
            raise ValueError(f"a block has {shared_bytes} bytes of shared memory, not {others + _MIN_RING * tile}")
        macros = {
            "HIDDEN": depth.hidden,
            "HEADS": depth.heads,
            "KV_HEADS": depth.kv_heads,
            "INTERMEDIATE": depth.intermediate,
            "LAYERS": depth.layers,
            "WIDE": config.backbone.hidden,
            "CODEBOOKS": config.codebooks,
            "VOCAB": vocab,
            "AUDIO_VOCAB": config.audio_vocab,
            "RECORD": state.table.words.shape[1],
            "RING": ring,
        }
        return KernelShape(macros, blocks, others + ring * tile)


class PersistentDepth:
    """Computes the codes of a frame from the backbone's residual stream, bit-identical among any number of rows.

    Allocates nothing after its construction, so launches can be captured in a CUDA graph. On one stream at a time.
    """

    def __init__(self, model: CsmModel, state: StepState, kernel: Kernel) -> None:
        """kernel: compiled with the macros of KernelShape. Raises ValueError for an unsupported model."""
        config, device = model.config, model.device
        depth = config.depth
        self._kernel = kernel
        self.packed = PackedDepth.of(model)

        def zeros(*shape: int, dtype: torch.dtype = model.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        cache = (depth.layers, MAX_ROWS, depth.kv_heads)
        # Far apart: the first two are waited on by every block.
        counters = zeros(3, 64, dtype=torch.int32)
        #: (codebooks, MAX_ROWS, vocab), of the last frame, rounded to bfloat16
        self.logits = zeros(config.codebooks, MAX_ROWS, model.sampled_vocab, dtype=torch.float32)
        self._fault = counters[2]
        self._tensors = {
            "opening": self.packed.opening,
            "layers": self.packed.layers,
            "heads": self.packed.heads,
            "norms": self.packed.norms,
            "cos": model.depth.cos,
            "sin": model.depth.sin,
            "inputs": model.depth_inputs,
            "backbone_norm": model.backbone.norm.weight,
            **{name: getattr(state.sampling, name) for name in _FIELDS},
            "first": zeros(MAX_ROWS, depth.hidden),
            "q": zeros(_TOKENS, depth.hidden),
            "keys": zeros(*cache, POSITIONS, depth.head_dim),
            "values": zeros(*cache, depth.head_dim, POSITIONS),
            "attended": zeros(_TOKENS, depth.hidden),
            "gated": zeros(_TOKENS, depth.intermediate),
            "updated": zeros(_TOKENS, depth.hidden),
            "logits": self.logits,
            "arrivals": counters[0],
            "leavers": counters[1],
            "fault": self._fault,
        }
        self._params = Params(
            **{name: tensor.data_ptr() for name, tensor in self._tensors.items()},
            patience=_PATIENCE,
            backbone_eps=config.backbone.norm_eps,
            eps=depth.norm_eps,
            attention_scale=depth.head_dim**-0.5,
            layer_slots=self.packed.layers.shape[1],
        )

    def run(self, backbone: Tensor, rows: int, codes: Tensor) -> None:
        """Sample the codes of one frame, and write the logits that they were sampled from.

        backbone: (rows, backbone hidden), the residual stream before its last norm. codes: int64 (rows, codebooks).
        """
        assert 1 <= rows <= MAX_ROWS
        params, device = self._params, self.logits.device
        params.backbone, params.codes, params.rows = backbone.data_ptr(), codes.data_ptr(), rows
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        self._kernel.launch(params, stream)

    def fail_loudly(self) -> None:
        """From now on a wait in vain is a CUDA error, which fails the engine, as a frame of noise would not."""
        self._params.fatal = 1

    @property
    def fault(self) -> str:
        """What a block has waited for in vain; empty if nothing. Waits for the device."""
        found = int(self._fault[0])
        names = {1: "a free slot", 2: "weights", 4: "the other blocks"}
        return " and ".join(name for bit, name in names.items() if found & bit)
