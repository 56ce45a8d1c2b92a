"""Baseline: transformers' CsmForConditionalGeneration, eager, compiled, and with several concurrent requests."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from engine import MachineLimits
from engine.random_checkpoint import SPECIAL_TOKENS
from training.base_checkpoint import tie_embeddings


def compile_unavailable_reason(device: torch.device) -> str | None:
    """Why torch.compile is unavailable on this device; None if it is available."""
    if device.type == "cuda":
        return None if torch.cuda.is_available() else "there is no CUDA device"
    compiler = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
    return None if compiler else "torch.compile on a CPU needs a C++ compiler, and none is in PATH"


_RECOMPILATIONS = 64  # all models share one wrapper and count together: the default of 8 would fall back to eager


class TransformersBaseline:
    """Generates exactly `frames` frames per text; all modes share one set of weights.

    transformers stores per-call state in the modules (hooks, caches, generation configurations), so each concurrent
    request uses its own copy of the modules on the same weights.
    """

    def __init__(self, model: str, device: torch.device, dtype: torch.dtype, frames: int) -> None:
        import tokenizers  # type: ignore[import-untyped]
        import transformers as untyped

        transformers: Any = untyped
        csm = transformers.CsmForConditionalGeneration.from_pretrained(model, dtype=dtype)
        tie_embeddings(csm, Path(model))
        csm = csm.to(device).eval()
        csm.codec_model.float()  # as in the engine
        self._device, self._frames = device, frames
        self._models = [csm]
        self._compiled: Any = None
        self._tokenizer = tokenizers.Tokenizer.from_file(f"{model}/tokenizer.json")
        compiling = transformers.CompileConfig(mode="reduce-overhead" if device.type == "cuda" else "default")
        compiling._compile_all_devices = True  # by default it compiles only for GPUs
        self._compiling = compiling
        invalid_codes = list(range(csm.config.codec_config.codebook_size, csm.config.vocab_size))
        sampling = {"do_sample": True, "temperature": 0.8, "top_k": 50}
        # A stop frame consists of this code only: suppressing it in codebook 0 prevents stopping.
        first = {**sampling, "suppress_tokens": [csm.config.codebook_eos_token_id, *invalid_codes]}
        self._sampling = first | {
            f"depth_decoder_{name}": value for name, value in {**sampling, "suppress_tokens": invalid_codes}.items()
        }

    def generate(self, text: str, compiled: bool = False) -> None:
        """Generate audio for a text and copy it to the host."""
        if compiled and self._compiled is None:
            torch._dynamo.config.recompile_limit = _RECOMPILATIONS
            self._compiled = self._copy_modules()
        self._generate(self._compiled if compiled else self._models[0], text, compiled)

    def _copy_modules(self) -> Any:
        """A copy of the modules that shares the weights."""
        csm = self._models[0]
        weights = {id(tensor): tensor for tensor in (*csm.parameters(), *csm.buffers())}
        return copy.deepcopy(csm, weights)

    def _generate(self, csm: Any, text: str, compiled: bool) -> None:
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
            raise RuntimeError(f"transformers made {codes.shape[1]} frames instead of {self._frames}")

    def generate_concurrently(self, texts: Sequence[str]) -> None:
        """Each text in its own thread, with its own stream on a GPU; on a CPU the threads share the cores."""
        before = torch.get_num_threads()
        share = MachineLimits().cores().threads(len(texts))
        while len(self._models) < len(texts):
            self._models.append(self._copy_modules())
        # New threads for each call, because a thread keeps the number of cores of its initializer.
        with ThreadPoolExecutor(len(texts), initializer=lambda: torch.set_num_threads(share)) as threads:
            pairs = zip(self._models, texts, strict=False)
            for future in [threads.submit(self._generate_on_stream, csm, text) for csm, text in pairs]:
                future.result()
        torch.set_num_threads(before)

    def _generate_on_stream(self, csm: Any, text: str) -> None:
        cuda = self._device.type == "cuda"
        stream: Any = torch.cuda.Stream(self._device) if cuda else None  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream) if cuda else contextlib.nullcontext():
            self._generate(csm, text, compiled=False)

    def _prompt(self, text: str) -> torch.Tensor:
        begin, end = (self._tokenizer.token_to_id(token) for token in SPECIAL_TOKENS[:2])
        ids = [begin, *self._tokenizer.encode(f"[0]{text}", add_special_tokens=False).ids, end]
        return torch.tensor([ids], device=self._device)
