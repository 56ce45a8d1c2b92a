"""From a configuration to a model in memory, on a device, warmed up."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from .codec.encoder import MimiEncoder
from .codec.mimi import MimiCodec, load_moshi_mimi, load_transformers_mimi
from .config import EngineConfig
from .errors import CheckpointError, EngineOutOfMemory, InvalidRequest
from .interface import Progress
from .model.checkpoint import check_directory, find_checkpoint, fingerprint, weights_named_by
from .model.config import CsmConfig, read_config
from .model.csm import CsmModel
from .model.tokenizer import TextTokenizer
from .model.weights import Tensors, load_weights, open_tensors
from .runner import FEWEST_ROWS, Runner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    runner: Runner
    tokenizer: TextTokenizer
    detail: dict[str, object]  # for people: model, dtype, memory


def load(config: EngineConfig, progress: Progress) -> Loaded:
    """Load, allocate everything, run every kernel once.

    Raises CheckpointNotFound, CheckpointError, InvalidRequest (a device or dtype that is not to be had),
    EngineOutOfMemory.
    """
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    progress(0.0, f"looking for {config.model}")
    directory = find_checkpoint(config.model, config.hub_token)
    check_directory(directory)
    progress(0.1, f"reading {directory}")
    try:
        tokenizer = TextTokenizer(directory / "tokenizer.json")
        csm = read_config(directory / "config.json")
        tensors = open_tensors(directory, weights_named_by(directory))
        rows = max(config.slots, FEWEST_ROWS)
        codec = _codec(csm, tensors, rows, device, config)
        if tokenizer.size > csm.text_vocab:
            raise CheckpointError(
                f"{directory / 'tokenizer.json'}: has {tokenizer.size} tokens, but config.json only {csm.text_vocab}"
            )
        progress(0.3, "loading the weights")
        with torch.device("meta"):
            model = CsmModel(csm, tokenizer.end, min(csm.audio_vocab, codec.codebook_size))
        load_weights(model, tensors, device, dtype)
        if device.type == "cpu":
            _choose_threads(model)
        progress(0.8, "warming up")
        runner = Runner(model, codec, rows)
        _warm_up(runner, _compile(config, device))
    except torch.OutOfMemoryError as error:
        raise EngineOutOfMemory(
            f"{config.model} with {config.slots} slots does not fit into the memory of {device}: use fewer slots"
        ) from error
    detail: dict[str, object] = {
        "model": config.model,
        "dtype": str(dtype).removeprefix("torch."),
        "bytes": runner.nbytes,
        "positions": csm.positions,
        "fingerprint": fingerprint(directory),
    }
    log.info("CSM is ready on %s: %s", device, detail)
    progress(1.0, "ready")
    return Loaded(runner, tokenizer, detail)


def load_encoder(config: EngineConfig) -> MimiEncoder:
    """The codec of a checkpoint alone, to encode recordings with; the model's weights are not read.

    Raises CheckpointNotFound, CheckpointError, InvalidRequest (a device that is not to be had).
    """
    device = _device(config.device)
    directory = find_checkpoint(config.model, config.hub_token)
    check_directory(directory)
    csm = read_config(directory / "config.json")
    tensors = open_tensors(directory, weights_named_by(directory))
    return MimiEncoder(_codec(csm, tensors, 1, device, config), csm.codebooks)


def _codec(csm: CsmConfig, tensors: Tensors, rows: int, device: torch.device, config: EngineConfig) -> MimiCodec:
    if csm.codec is not None:
        return load_transformers_mimi(csm.codec, tensors, csm.codebooks, rows, device)
    return load_moshi_mimi(config.mimi_weights, csm.codebooks, rows, device, config.hub_token)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidRequest(f"device is {name!r}; it may be auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidRequest(f"device is {name!r}; it may be auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InvalidRequest(f"device is {name!r}, but PyTorch finds no CUDA device here; use auto or cpu")
        torch.set_float32_matmul_precision("high")
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_is_fast_at_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    try:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    except KeyError:
        raise InvalidRequest(f"dtype is {name!r}; it may be auto, float32, bfloat16 or float16") from None


def _cpu_is_fast_at_bfloat16() -> bool:
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported


_SMALL_MODEL = 128 << 20  # bytes


def _choose_threads(model: CsmModel) -> None:
    """One thread for a small model: its products are too short to be shared out.

    Threads that wait for each other a thousand times a frame lose far more than they win, and lose it all when
    somebody else wants the processors too.
    """
    size = sum(parameter.nbytes for parameter in model.parameters())
    if size < _SMALL_MODEL and torch.get_num_threads() > 1:
        log.info("one thread: the model is small (%d MiB)", size >> 20)
        torch.set_num_threads(1)


def _warm_up(runner: Runner, compiled: bool) -> None:
    """Run every kernel once, compiled if that is asked for and can be had here."""
    if compiled:
        try:
            runner.compile()
            runner.warm_up()
            return
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, an unknown GPU, whatever it is: the plain step says the same
            log.warning("torch.compile does not work here, so the step stays as it is: %s", error)
            runner.compile(on=False)
    runner.warm_up()


def _compile(config: EngineConfig, device: torch.device) -> bool:
    return config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
