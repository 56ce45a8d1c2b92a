"""transformers' own CSM, run as well as it can be: eager, compiled, and several requests at once."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from engine import MachineLimits
from engine.random_checkpoint import SPECIAL_TOKENS


def compile_unavailable_reason(device: torch.device) -> str | None:
    """Why torch.compile cannot be had for this device; None if it can."""
    if device.type == "cuda":
        return None if torch.cuda.is_available() else "there is no CUDA device"
    compiler = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
    return None if compiler else "torch.compile needs a C++ compiler for a CPU, and none is in PATH"


_RECOMPILATIONS = 64  # its wrapper is shared by all of its models, and each counts: 8 would end in eager


class TransformersBaseline:
    """One set of weights for all of its ways to speak. Every text is spoken in exactly `frames` frames.

    transformers keeps what a call is about in the modules themselves (hooks, caches, generation configurations), so
    each request at once has modules of its own, on the same weights.
    """

    def __init__(self, model: str, device: torch.device, dtype: torch.dtype, frames: int) -> None:
        import tokenizers  # type: ignore[import-untyped]
        import transformers as untyped

        transformers: Any = untyped
        csm = transformers.CsmForConditionalGeneration.from_pretrained(model, dtype=dtype).to(device).eval()
        csm.codec_model.float()  # as in the engine
        self._device, self._frames = device, frames
        self._models = [csm]
        self._compiled: Any = None
        self._tokenizer = tokenizers.Tokenizer.from_file(f"{model}/tokenizer.json")
        compiling = transformers.CompileConfig(mode="reduce-overhead" if device.type == "cuda" else "default")
        compiling._compile_all_devices = True  # by itself it compiles for GPUs only
        self._compiling = compiling
        unspeakable = list(range(csm.config.codec_config.codebook_size, csm.config.vocab_size))
        sampling = {"do_sample": True, "temperature": 0.8, "top_k": 50}
        # A stop frame is one of this code alone: never sampled first, it never stops.
        first = {**sampling, "suppress_tokens": [csm.config.codebook_eos_token_id, *unspeakable]}
        self._sampling = first | {
            f"depth_decoder_{name}": value for name, value in {**sampling, "suppress_tokens": unspeakable}.items()
        }

    def speak(self, text: str, compiled: bool = False) -> None:
        """Text to audio, the audio on the host."""
        if compiled and self._compiled is None:
            torch._dynamo.config.recompile_limit = _RECOMPILATIONS
            self._compiled = self._twin()
        self._speak(self._compiled if compiled else self._models[0], text, compiled)

    def _twin(self) -> Any:
        """Modules of their own on the same weights."""
        csm = self._models[0]
        weights = {id(tensor): tensor for tensor in (*csm.parameters(), *csm.buffers())}
        return copy.deepcopy(csm, weights)

    def _speak(self, csm: Any, text: str, compiled: bool) -> None:
        prompt = self._prompt(text)
        cache = {
            "cache_implementation": "static" if compiled else None,
            "compile_config": self._compiling if compiled else None,
        }
        depth = {f"depth_decoder_{name}": value for name, value in cache.items()}
        with torch.inference_mode():
            codes = csm.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=self._frames,
                **self._sampling,
                **cache,
                **depth,
            )
            csm.codec_model.decode(codes.transpose(1, 2)).audio_values.cpu()
        if codes.shape[1] != self._frames:
            raise RuntimeError(f"transformers made {codes.shape[1]} frames and not {self._frames}: unequal work")

    def generate_concurrently(self, texts: Sequence[str]) -> None:
        """Every text in a thread of its own, on a GPU on a stream of its own; on a CPU they share the cores."""
        before = torch.get_num_threads()
        share = MachineLimits().cores().threads(len(texts))
        while len(self._models) < len(texts):
            self._models.append(self._twin())
        # Threads are made for each call, so that none holds on to a share that another count of texts gave it.
        with ThreadPoolExecutor(len(texts), initializer=lambda: torch.set_num_threads(share)) as threads:
            pairs = zip(self._models, texts, strict=False)
            for spoken in [threads.submit(self._speak_on_a_stream, csm, text) for csm, text in pairs]:
                spoken.result()
        torch.set_num_threads(before)

    def _speak_on_a_stream(self, csm: Any, text: str) -> None:
        cuda = self._device.type == "cuda"
        stream: Any = torch.cuda.Stream(self._device) if cuda else None  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream) if cuda else contextlib.nullcontext():
            self._speak(csm, text, compiled=False)

    def _prompt(self, text: str) -> torch.Tensor:
        begin, end = (self._tokenizer.token_to_id(token) for token in SPECIAL_TOKENS[:2])
        ids = [begin, *self._tokenizer.encode(f"[0]{text}", add_special_tokens=False).ids, end]
        return torch.tensor([ids], device=self._device)
