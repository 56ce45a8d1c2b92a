"""Loads a checkpoint onto a device, chooses the number of slots, warms up and captures CUDA graphs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .capacity import prefill_bytes, row_bytes, rows_that_fit
from .codec.encoder import MimiEncoder
from .codec.fused import verified_operators
from .codec.mimi import MimiCodec, load_moshi_mimi, load_transformers_mimi
from .config import EngineConfig
from .cpu_resources import check_memory, choose_slots, choose_threads, memory_after_loading
from .cuda_streams import StreamPriority
from .errors import CheckpointError, EngineOutOfMemory, InvalidRequest
from .graph_recording import GraphRecording
from .interface import Progress
from .machine_limits import MachineLimits
from .model.checkpoint import open_checkpoint
from .model.config import CsmConfig
from .model.csm import CsmModel
from .model.fused_frames import verified_fused_frames
from .model.fused_prefill import verified_fused_prefills
from .model.graphs import CudaGraphCapturer
from .model.int8_linear import quantize
from .model.packed_linear import pack
from .model.persistent_frames import use_persistent_depth
from .model.ragged_attention import verified_kv_restore, verified_prompt_attention, verified_ragged_attention
from .model.tokenizer import TextTokenizer
from .model.uninitialized import Uninitialized
from .model.weights import Tensors, load_weights
from .model_runner import MIN_ROWS, ModelRunner
from .prefill_pipeline import MAX_PASS_TOKENS, PASS_SIZES
from .prefill_streams import AUTO_STREAMS
from .types import FRAME_MILLISECONDS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    runner: ModelRunner
    tokenizer: TextTokenizer
    slots: int  # rows for requests
    voice_cache_bytes: int  # limit of the voice cache
    detail: dict[str, object]  # for display: model, dtype, memory, start-up times
    recording: GraphRecording | None = None  # of the graphs that are left for later


def load(config: EngineConfig, progress: Progress, limits: MachineLimits | None = None) -> Loaded:
    """Load the weights, allocate all state, run every kernel once and capture graphs.

    limits: by default those of this process.
    Raises CheckpointNotFound, CheckpointError, InvalidRequest (a device or dtype that is not available),
    EngineOutOfMemory.
    """
    limits = limits or MachineLimits()
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    timer = _PhaseTimer()
    recording: GraphRecording | None = None
    progress(0.0, f"looking for {config.model}")
    checkpoint = open_checkpoint(config.model, config.hub_token, lambda share, what: progress(0.1 * share, what))
    directory, csm, tensors = checkpoint.directory, checkpoint.config, checkpoint.tensors
    progress(0.1, f"reading {directory}")
    try:
        tokenizer = TextTokenizer(directory / "tokenizer.json")
        codec = _codec(csm, tensors, device, config)
        if tokenizer.size > csm.text_vocab:
            raise CheckpointError(
                f"{directory / 'tokenizer.json'}: has {tokenizer.size} tokens, but config.json only {csm.text_vocab}"
            )
        progress(0.2, "loading the weights")
        with torch.device("meta"), Uninitialized():
            model = CsmModel(csm, tokenizer.end, min(csm.audio_vocab, codec.codebook_size))
        memory = limits.memory_share(config.workers)
        if device.type == "cpu":
            check_memory(model, dtype, _row_bytes(model, codec, dtype), config, memory)
        load_weights(model, tensors, device, dtype)
        if config.depth_weights == "int8":
            quantize(model.depth, f"{directory}: depth")
            quantize(model.heads, f"{directory}: heads")
        if device.type == "cpu":
            choose_threads(model, config.workers, limits)
            pack(model)
            codec.decoder.pack()
        if _compiles(config, device):
            model.ragged_attention = verified_ragged_attention(csm.backbone, device, dtype)
            model.prompt_attention = verified_prompt_attention(csm.backbone, device, dtype)
            codec.decoder.operators = verified_operators(codec.decoder)
            model.kv_restore = verified_kv_restore(csm.backbone, device, dtype)
        timer.finish("weights")
        slots, voice_cache_bytes = config.slots, config.voice_cache_bytes
        if device.type == "cpu":
            memory = memory_after_loading(model, memory, limits.memory_share(config.workers))
            slots, voice_cache_bytes = choose_slots(model, _row_bytes(model, codec, dtype), config, memory)
        elif not slots:
            slots = _slots_on_gpu(model, codec, config)
        progress(0.5, f"warming up, {slots} slots")
        runner = ModelRunner(model, codec, max(slots, MIN_ROWS), streams=_streams(device, config))
        if _compiles(config, device):
            _limit_compiler_threads(limits.cores().threads(config.workers))
        _warm_up(runner, _compiles(config, device))
        timer.finish("warm up")
        if model.ragged_attention is not None:
            progress(0.6, "comparing fused kernels with the plain step")
            _use_fused_kernels(runner, limits.cores().threads(config.workers))
            timer.finish("fused kernels")
        if device.type == "cuda" and config.depth_weights == "int8" and not runner.frames.all_fused:
            log.warning(
                "int8 depth weights are copied to %s for every product of the plain step, which is slower than "
                "DEPTH_WEIGHTS=auto: only fused kernels read int8",
                str(dtype).removeprefix("torch."),
            )
        if device.type == "cuda" and _compiles(config, device):
            recording = _recording(runner)
            if config.fast_start:
                recording.record_largest(lambda share, what: progress(0.6 + 0.4 * share, what))
            else:
                recording.record_all(lambda share, what: progress(0.6 + 0.4 * share, what))
            timer.finish("graphs")
        runner.preallocate_prefill()
        if device.type == "cuda" and not config.slots:
            slots = _slots_in_real_time(runner, slots, recording)
            timer.finish("timing")
    except torch.OutOfMemoryError as error:
        raise EngineOutOfMemory(
            f"{config.model} with {config.slots or 'automatic'} slots does not fit into the memory of {device}: "
            "use fewer slots"
        ) from error
    detail: dict[str, object] = {
        "model": config.model,
        "dtype": str(dtype).removeprefix("torch."),
        "depth_weights": "int8" if config.depth_weights == "int8" else str(dtype).removeprefix("torch."),
        "bytes": runner.nbytes,
        "memory": _memory(runner),
        "attention": "each row's live positions" if model.ragged_attention else "the longest row's bucket",
        "step": runner.frames.step_summary,
        **graph_detail(runner),
        "prompt_streams": len(runner.prefills.pipelines),
        "prefill": "fused kernels" if runner.prefills.fused else "plain",
        "start_seconds": timer.seconds,
        "positions": csm.positions,
        "fingerprint": checkpoint.fingerprint,
    }
    log.info("CSM is ready on %s, %d slots: %s", device, slots, detail)
    progress(1.0, "ready")
    deferred = recording if config.fast_start else None
    return Loaded(runner, tokenizer, slots, voice_cache_bytes, detail, deferred)


def graph_detail(runner: ModelRunner) -> dict[str, object]:
    """How many graphs there are, for display."""
    return {"graphs": runner.frames.graph_summary, "prompt_graphs": runner.prefills.graphs}


def _recording(runner: ModelRunner) -> GraphRecording:
    def capturer(priority: StreamPriority) -> CudaGraphCapturer:
        return CudaGraphCapturer(runner.device, priority)

    return GraphRecording(
        *(runner.frames, runner.prefills, capturer(StreamPriority.FRAMES), capturer(StreamPriority.CODEC)),
        lambda: capturer(StreamPriority.PREFILL),
    )


class _PhaseTimer:
    """Measures the phases of start-up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def finish(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase], self._since = round(now - self._since, 2), now


def _memory(runner: ModelRunner) -> dict[str, int]:
    """Bytes by purpose. The rest of the reserved GPU memory is work memory of graphs and steps."""
    parts = {
        "weights": sum(tensor.nbytes for tensor in (*runner.model.parameters(), *runner.model.buffers())),
        "kv": runner.state.backbone.nbytes + runner.state.depth.nbytes,
        "codec": runner.codec.weights_nbytes + runner.codec.state_nbytes,
    }
    if runner.device.type == "cuda":
        parts["work"] = max(torch.cuda.memory_reserved(runner.device) - sum(parts.values()), 0)
    return parts


def _row_bytes(model: CsmModel, codec: MimiCodec, dtype: torch.dtype) -> int:
    """Bytes of one row of the model's and the codec's state."""
    codec.allocate(MIN_ROWS)
    return row_bytes(model.config, dtype.itemsize, codec.state_nbytes // MIN_ROWS)


def _slots_on_gpu(model: CsmModel, codec: MimiCodec, config: EngineConfig) -> int:
    """As many slots as fit into the device's memory beside what is loaded."""
    device, row = model.device, _row_bytes(model, codec, model.dtype)
    prompts = prefill_bytes(model.config, model.dtype.itemsize, MAX_PASS_TOKENS["cuda"]) * _streams(device, config)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    slots = rows_that_fit(free, total, row, config.voice_cache_bytes + prompts, MIN_ROWS)
    log.info("%d slots: %d MiB each, %d MiB of %d are free", slots, row >> 20, free >> 20, total >> 20)
    return slots


def _streams(device: torch.device, config: EngineConfig) -> int:
    """Streams for prompts: a CPU has one."""
    return 1 if device.type == "cpu" else config.prompt_streams or AUTO_STREAMS[device.type]


_MAX_FRAME_SHARE = 0.5  # of its 80 ms that a frame may take at most; the rest is for prefill and variation


def _slots_in_real_time(runner: ModelRunner, slots: int, recording: GraphRecording | None) -> int:
    """Reduce `slots` until a frame at half of the context takes at most half of its duration."""
    limit = _MAX_FRAME_SHARE * FRAME_MILLISECONDS / 1000
    buckets = runner.frames.buckets
    middle = runner.model.config.positions // 2
    for rows in reversed(buckets.rows):
        if recording is not None:
            recording.record_rows(rows)
        seconds = runner.frames.measure_seconds(buckets.bucket_for(rows, middle))
        if seconds <= limit:
            return min(rows, slots)
        log.info("%d slots are too many: a frame takes %.0f ms, the limit is %.0f ms", rows, seconds * 1e3, limit * 1e3)
    return min(buckets.rows[0], slots)


def load_encoder(config: EngineConfig) -> MimiEncoder:
    """Load the codec of a checkpoint to encode recordings, without the model's weights.

    Raises CheckpointNotFound, CheckpointError, InvalidRequest (a device that is not available).
    """
    device = _device(config.device)
    checkpoint = open_checkpoint(config.model, config.hub_token)
    csm = checkpoint.config
    return MimiEncoder(_codec(csm, checkpoint.tensors, device, config), csm.codebooks)


@contextlib.contextmanager
def moshi_streaming(config: EngineConfig, rows: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """moshi's own streaming decoder of a checkpoint's codec, to compare with: codes (rows, codebooks) -> samples."""
    checkpoint = open_checkpoint(config.model, config.hub_token)
    codec = _codec(checkpoint.config, checkpoint.tensors, _device(config.device), config)
    with codec.moshi_streaming(rows) as decode:
        yield decode


def _codec(csm: CsmConfig, tensors: Tensors, device: torch.device, config: EngineConfig) -> MimiCodec:
    if csm.codec is not None:
        return load_transformers_mimi(csm.codec, tensors, csm.codebooks, device)
    return load_moshi_mimi(config.mimi_weights, csm.codebooks, device, config.hub_token)


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
        # cuDNN plans the first attention of each new shape for 38 to 1,210 ms (H200, torch 2.11); the others take 28.
        torch.backends.cuda.enable_cudnn_sdp(False)
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


def _limit_compiler_threads(threads: int) -> None:
    """By default Inductor starts a process for each core of the machine, even beyond a container's limit."""
    from torch._inductor import config

    config.compile_threads = min(config.compile_threads or threads, threads)


def _warm_up(runner: ModelRunner, compiled: bool) -> None:
    """Run every kernel once, compiled if `compiled` and torch.compile works here."""
    if compiled:
        try:
            runner.compile()
            runner.warm_up()
            return
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler or an unknown GPU; the uncompiled step is equivalent
            log.warning("torch.compile failed, so the step runs uncompiled: %s", error)
            runner.compile(on=False)
    runner.warm_up()


def _use_fused_kernels(runner: ModelRunner, threads: int) -> None:
    """Compute steps with fused kernels where they are right and faster, and prompts too if all steps are fused."""
    model, frames, prefills = runner.model, runner.frames, runner.prefills
    frames.fused = verified_fused_frames(
        *(model, runner.state, frames.buckets.rows, frames.buckets.contexts[0], threads),
        lambda: CudaGraphCapturer(runner.device, StreamPriority.FRAMES),
    )
    if frames.fused is not None and frames.all_fused:
        use_persistent_depth(
            *(model, runner.state, frames.fused.step, frames.buckets.rows, frames.buckets.contexts[0]),
            lambda: CudaGraphCapturer(runner.device, StreamPriority.FRAMES),
        )
        passes = verified_fused_prefills(
            *(model, runner.state, PASS_SIZES, frames.fused.step.pdl, len(prefills.pipelines), threads),
            lambda: CudaGraphCapturer(runner.device, StreamPriority.PREFILL),
        )
        prefills.use_fused(passes)


def _compiles(config: EngineConfig, device: torch.device) -> bool:
    return config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
