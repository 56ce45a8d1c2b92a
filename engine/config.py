"""Configuration of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import InvalidRequest

AUTO_SLOTS = 0  # EngineConfig.slots: as many as fit
CPU_SLOTS = 4  # its value on a CPU, if they fit into memory
MAX_SLOTS = 512  # its maximum: one Python interpreter serves all of them
FALLBACK_MODEL = "espeak-ng"  # EngineConfig.model: the fallback engine, which needs no weights
KOKORO_MODEL = "kokoro"  # EngineConfig.model: the neural fallback voice, whose weights are installed packages

SESAME_REPOSITORY = "sesame/csm-1b"  # on the Hugging Face Hub, behind conditions
OPEN_COPY = "unsloth/csm-1b"  # of it, in transformers' layout
HOW_TO_GET_WEIGHTS = (
    f"To get CSM's weights: `make serve MODEL={OPEN_COPY}` (or MODEL_PATH={OPEN_COPY}), a copy that, as far as public "
    f"pages tell, asks for no token; or ask for access at huggingface.co/{SESAME_REPOSITORY}, make a token, and set "
    "HF_TOKEN to it; or set MODEL_PATH to a directory that holds them"
)


@dataclass(frozen=True)
class EngineConfig:
    """Parameters of `load_engine`.

    model: a directory or a hub id such as "sesame/csm-1b", of a checkpoint or of a LoRA adapter, "kokoro" for the
        neural fallback voice, or "espeak-ng" for the fallback voice that needs no weights.
    device: "auto" (cuda where there is one), "cpu", "cuda", "cuda:N".
    dtype: "auto" (bfloat16, or float32 where the CPU is slow at bfloat16), "float32", "bfloat16", "float16".
    depth_weights: of the depth decoder, which reads them once per codebook: "auto" (the dtype of the other weights) or
        "int8", half the bytes of bfloat16, with slightly different codes; `bench.depth_weights` measures both.
    slots: concurrent requests; AUTO_SLOTS: on a GPU as many as its memory and speed allow, elsewhere CPU_SLOTS, or
        fewer if memory is short. The engine's `slots` has the result.
    prompt_streams: CUDA streams for prompts, see `prefill_streams`; 0: as many as the device's kind uses. No more than
        slots are used, and a CPU has one.
    workers: engines that share this machine's cores and, on a CPU, its memory.
    compile: torch.compile on the frame step, and on a GPU fused kernels, CUDA graphs and attention over each row's live
        positions only; "auto" is on for cuda and off for cpu.
    fast_start: on a GPU, record only the largest CUDA graphs at load; the others after the first request that `stream`
        was given, one at a time while there is none.
    audio_queue_slices: emitted slices that a slot may be ahead of its reader before it is held.
    voice_cache_bytes: limit of the LRU cache of voice prompts.
    hub_token: for a gated repository on the Hugging Face hub.
    kokoro_voices: a repository on the Hugging Face hub with English voices for Kokoro; empty: only those installed.
    mimi_weights: a Mimi file in moshi's format, for checkpoints without Mimi; None downloads moshi's default.
    """

    model: str
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    depth_weights: Literal["auto", "int8"] = "auto"
    slots: int = 4
    prompt_streams: int = 0
    workers: int = 1
    compile: Literal["auto", "on", "off"] = "auto"
    fast_start: bool = False
    audio_queue_slices: int = 5
    voice_cache_bytes: int = 1 << 30
    hub_token: str | None = None
    kokoro_voices: str = ""
    mimi_weights: str | None = None

    def __post_init__(self) -> None:
        if self.depth_weights not in ("auto", "int8"):
            raise InvalidRequest(f"depth_weights is {self.depth_weights!r}; it may be auto or int8")
        if self.slots < 0:
            raise InvalidRequest(f"slots must be at least 1, or {AUTO_SLOTS} for as many as fit, not {self.slots}")
        if self.prompt_streams < 0:
            raise InvalidRequest(f"prompt_streams must be at least 1, or 0 for automatic, not {self.prompt_streams}")
        if self.workers < 1:
            raise InvalidRequest(f"workers must be at least 1, not {self.workers}")
        if self.audio_queue_slices < 1:
            raise InvalidRequest(f"audio_queue_slices must be at least 1, not {self.audio_queue_slices}")
