"""Mimi codec: streaming decode with one row per slot, and encoding. The only module that imports moshi."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..model.weights import Tensors
from ..types import FRAME_SAMPLES, SAMPLE_RATE

# moshi decorates its rotary embedding with torch.compile at import. For the few rows of a codec that takes a minute
# and a C compiler, and gains nothing.
_saved_no_compile = os.environ.get("NO_TORCH_COMPILE")
os.environ["NO_TORCH_COMPILE"] = "1"
try:
    from moshi.models.compression import MimiModel
    from moshi.models.loaders import DEFAULT_REPO, MIMI_NAME, get_mimi
    from moshi.modules.streaming import State, StreamingContainer
    from moshi.modules.transformer import RingKVCache, StreamingMultiheadAttention
finally:
    if _saved_no_compile is None:
        del os.environ["NO_TORCH_COMPILE"]


class _Decoder(StreamingContainer):
    """Mimi's decoder. Only this container holds streaming state, so the encoder is not switched to streaming."""

    def __init__(self, mimi: MimiModel) -> None:
        super().__init__()
        self.quantizer = mimi.quantizer
        self.upsample = mimi.upsample
        self.transformer: Any = mimi.decoder_transformer
        self.decoder = mimi.decoder

    def forward(self, codes: Tensor) -> Tensor:
        """(rows, codebooks, frames) -> (rows, 1, frames * 1920)"""
        latent = self.quantizer.decode(codes)
        (latent,) = self.transformer(self.upsample(latent))
        return cast(Tensor, self.decoder(latent))


def _enlarge_kv_rings(decoder: _Decoder, mimi: MimiModel) -> None:
    """Enlarge the attention's ring KV caches by the extra positions of one frame.

    A frame is several positions (25 Hz against 12.5). moshi's ring holds exactly the attention's context, so the last
    position of a frame overwrites the oldest one that its first position should still attend to, and a stream of more
    than ten seconds drifts from the same codes decoded at once. The added capacity makes both equal.
    """
    positions = round(mimi.encoder_frame_rate / mimi.frame_rate)
    for module in decoder.modules():
        if isinstance(module, StreamingMultiheadAttention):
            state: Any = module._streaming_state
            cache = state.kv_cache.cache
            _, rows, heads, capacity, dim = cache.shape
            state.kv_cache = RingKVCache(
                rows, heads, dim, capacity + positions - 1, device=cache.device, dtype=cache.dtype
            )


class _StreamingState:
    """Decoder streaming state of all rows, with views of the first rows, so a frame costs only the rows of its bucket.

    moshi gives every module its own mask of active rows; here all share one, which is written once per frame.
    """

    def __init__(self, states: dict[str, State], rows: int, device: torch.device) -> None:
        self._states = states
        self._prefixes: dict[int, dict[str, State]] = {rows: states}
        self.active = torch.zeros(rows, dtype=torch.bool, device=device)
        self.view_rows = rows  # number of rows of the state that the modules currently hold
        for state in states.values():
            state.exec_mask = self.active

    def tensors(self) -> Iterator[Tensor]:
        """The modules' state tensors. Rows are their first dimension, except in ring KV caches."""
        for state in self._states.values():
            for value in vars(state).values():
                if isinstance(value, Tensor) and value is not self.active:
                    yield value
                elif isinstance(value, RingKVCache):
                    yield from (value.cache, value.end_offset)

    def first(self, rows: int) -> dict[str, State]:
        """A view of the state restricted to the first rows, for the modules to hold."""
        if rows not in self._prefixes:
            self._prefixes[rows] = {name: _prefix(state, rows) for name, state in self._states.items()}
        self.view_rows = rows
        return self._prefixes[rows]

    def reset_tensors(self) -> Iterator[Tensor]:
        """The tensors that a reset zeroes a row of. Ring contents are skipped: at offset 0 they are not read."""
        return (tensor for tensor in self.tensors() if tensor.ndim < _RING_DIMENSIONS)


_RING_DIMENSIONS = 5  # (2, rows, heads, capacity, dim)


def _prefix(state: State, rows: int) -> State:
    """A copy of the state whose tensors are views of the first rows."""
    view = copy.copy(state)
    view.batch_size = rows
    for name, value in vars(state).items():
        if isinstance(value, Tensor):
            setattr(view, name, value[:rows])
        elif isinstance(value, RingKVCache):
            ring = copy.copy(value)
            ring.cache, ring.end_offset = value.cache[:, :rows], value.end_offset[:rows]
            setattr(view, name, ring)
    return view


class MimiCodec:
    """Streaming decoder with one row per slot, and encoder for voices. float32 throughout."""

    def __init__(self, mimi: MimiModel) -> None:
        if mimi.sample_rate != SAMPLE_RATE or mimi.frame_size != FRAME_SAMPLES:
            raise CheckpointError(
                f"the codec has {mimi.frame_size} samples per frame at {mimi.sample_rate} Hz; "
                f"CSM needs {FRAME_SAMPLES} at {SAMPLE_RATE} Hz"
            )
        self._mimi = mimi.eval()
        self._decoder = _Decoder(mimi)
        self.device = next(mimi.parameters()).device
        self.codebook_size: int = mimi.cardinality
        self._state: _StreamingState | None = None

    def allocate(self, rows: int) -> None:
        """Allocate streaming state for `rows` rows, replacing any before. Required by `decode` and `reset`."""
        self._state = None
        self._decoder._stop_streaming()
        self._decoder.streaming_forever(rows)
        _enlarge_kv_rings(self._decoder, self._mimi)
        self._state = _StreamingState(self._decoder.get_streaming_state(), rows, self.device)

    @property
    def state_nbytes(self) -> int:
        """Bytes of the streaming state of all rows."""
        return sum(tensor.nbytes for tensor in self._allocated.tensors())

    @property
    def _allocated(self) -> _StreamingState:
        assert self._state is not None, "call allocate() first"
        return self._state

    def state(self) -> dict[str, Tensor]:
        """The codec's weights and buffers by moshi's names, without streaming state."""
        return self._mimi.state_dict()

    def decode(self, codes: Tensor, active: Tensor) -> Tensor:
        """Decode one frame of the first rows: codes (rows, codebooks), active bool (rows,) -> samples (rows, 1920).

        Inactive rows keep their state; their samples are undefined. Reads no tensor values on the host, so it can be
        captured in a CUDA graph.
        """
        state = self._allocated
        if state.view_rows != codes.shape[0]:
            self._decoder.set_streaming_state(state.first(codes.shape[0]))
        state.active[: codes.shape[0]] = active
        return cast(Tensor, self._decoder(codes[:, :, None]))[:, 0]

    def reset(self, rows: Tensor) -> None:
        """Reset the streaming state of the rows that a mask, bool (rows,), holds. Can be captured in a CUDA graph."""
        for tensor in self._allocated.reset_tensors():
            tensor.masked_fill_(rows.view(-1, *[1] * (tensor.ndim - 1)), 0)

    def encode(self, samples: np.ndarray[Any, Any], sample_rate: int = SAMPLE_RATE) -> Tensor:
        """Encode a mono recording, float32 (samples,), to codes int64 (frames, codebooks); the last frame is padded."""
        wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(self.device)
        if sample_rate != SAMPLE_RATE:
            import torchaudio.functional

            wave = torchaudio.functional.resample(wave, sample_rate, SAMPLE_RATE)
        padding = -wave.shape[0] % FRAME_SAMPLES
        wave = nn.functional.pad(wave, (0, padding))
        return self._mimi.encode(wave[None, None])[0].T


def frame_count(samples: int, sample_rate: int) -> int:
    """Number of frames that `encode` returns for a recording of this many samples."""
    resampled = -(-samples * SAMPLE_RATE // sample_rate)  # torchaudio rounds up
    return -(-resampled // FRAME_SAMPLES)


def load_moshi_mimi(path: str | None, codebooks: int, device: torch.device, token: str | None) -> MimiCodec:
    """Load Mimi from a file in moshi's format, or from moshi's default Hub repository if `path` is None."""
    if path is None:
        import huggingface_hub

        path = huggingface_hub.hf_hub_download(DEFAULT_REPO, MIMI_NAME, token=token)
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: is missing; expected Mimi in moshi's format ({MIMI_NAME})")
    if not path.endswith(".safetensors"):
        raise CheckpointError(f"{path}: Mimi's weights must be a .safetensors file: other formats can execute code")
    try:
        mimi = get_mimi(path, device=device, num_codebooks=codebooks)
    except Exception as error:
        raise CheckpointError(f"{path}: is not Mimi in moshi's format: {error}") from error
    return MimiCodec(mimi)


def load_transformers_mimi(config: Any, tensors: Tensors, codebooks: int, device: torch.device) -> MimiCodec:
    """Load Mimi from CSM's transformers layout (tensors under `codec_model.`).

    config: transformers' MimiConfig. Raises CheckpointError naming the file and the tensor.
    """
    mimi = get_mimi(None, _moshi_config(config), device="cpu", num_codebooks=codebooks)
    state = {}
    for name, expected in mimi.state_dict().items():
        parts = [_load_tensor(tensors, source, config) for source in _transformers_names(name)]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        if tensor.shape != expected.shape:
            raise CheckpointError(
                f"codec_model: {_transformers_names(name)[0]!r} has shape {tuple(tensor.shape)}, "
                f"but config.json requires {tuple(expected.shape)}"
            )
        state[name] = tensor.to(expected.dtype)
    mimi.load_state_dict(state)
    return MimiCodec(mimi.to(device))


def _moshi_config(config: Any) -> dict[str, Any]:
    """Translate transformers' MimiConfig to moshi's. Raises CheckpointError for values that moshi does not support."""
    fixed = {
        "audio_channels": 1, "pad_mode": "constant", "use_causal_conv": True, "use_conv_shortcut": False,
        "trim_right_ratio": 1.0, "upsample_groups": config.hidden_size, "num_semantic_quantizers": 1,
        "head_dim": config.hidden_size // config.num_attention_heads, "hidden_act": "gelu",
        "num_key_value_heads": config.num_attention_heads, "attention_bias": False, "norm_eps": 1e-5,
    }  # fmt: skip
    for key, value in fixed.items():
        if (found := getattr(config, key, value)) not in (value, None):
            raise CheckpointError(f"config.json: codec_config.{key} is {found!r}; only {value!r} is supported")
    rope = getattr(config, "rope_parameters", None) or {}
    seanet = {
        "channels": config.audio_channels,
        "dimension": config.hidden_size,
        "causal": True,
        "n_filters": config.num_filters,
        "n_residual_layers": config.num_residual_layers,
        "activation": "ELU",
        "compress": config.compress,
        "dilation_base": config.dilation_growth_rate,
        "kernel_size": config.kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "last_kernel_size": config.last_kernel_size,
        "norm": "none",
        "pad_mode": config.pad_mode,
        "ratios": list(config.upsampling_ratios),
        "true_skip": True,
    }
    transformer = {
        "d_model": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_hidden_layers,
        "causal": True,
        "layer_scale": config.layer_scale_initial_scale,
        "context": config.sliding_window,
        "conv_layout": True,
        "max_period": rope.get("rope_theta") or config.rope_theta,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": config.intermediate_size,
        "input_dimension": config.hidden_size,
        "output_dimensions": [config.hidden_size],
    }
    quantizer = {
        "dimension": config.vector_quantization_hidden_dimension,
        "n_q": config.num_quantizers,
        "bins": config.codebook_size,
        "input_dimension": config.hidden_size,
        "output_dimension": config.hidden_size,
    }
    return {
        "sample_rate": config.sampling_rate,
        "channels": config.audio_channels,
        "frame_rate": config.frame_rate,
        "seanet": seanet,
        "quantizer": quantizer,
        "transformer": transformer,
    }


# moshi's name -> transformers', as patterns applied in order
_NAMES = (
    (r"^(encoder|decoder)\.model\.(\d+)\.", r"\1.layers.\2."),
    (r"\.(conv|convtr)\.\1\.(weight|bias)$", r".conv.\2"),
    (r"^(downsample|upsample)\.(?:conv|convtr)\.conv\.", r"\1.conv."),
    (r"_transformer\.transformer\.", "_transformer."),
    (r"\.out_projs\.0\.", ".o_proj."),
    (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."),
    (r"\.linear(\d)\.", r".mlp.fc\1."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
    (r"\.layer_scale_2\.", ".mlp_layer_scale."),
    (r"quantizer\.rvq_first\.", "quantizer.semantic_residual_vector_quantizer."),
    (r"quantizer\.rvq_rest\.", "quantizer.acoustic_residual_vector_quantizer."),
    (r"\.vq\.layers\.(\d+)\._codebook\.", r".layers.\1.codebook."),
    (r"codebook\._initialized$", "codebook.initialized"),
    (r"codebook\.embedding_sum$", "codebook.embed_sum"),
)


def _transformers_names(name: str) -> list[str]:
    """Names in transformers' layout of one tensor of moshi's Mimi: three for the fused q, k and v, otherwise one."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    name = "codec_model." + name
    if ".in_projs.0." in name:
        return [name.replace("in_projs.0", f"{projection}_proj") for projection in "qkv"]
    return [name]


def _load_tensor(tensors: Tensors, name: str, config: Any) -> Tensor:
    tensor = tensors.get(name)
    if re.search(r"\.[qk]_proj\.", name):
        tensor = pairs_from_halves(tensor, config.hidden_size // config.num_attention_heads)
    return tensor


def pairs_from_halves(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of q or k from half-split RoPE (transformers) to interleaved RoPE (moshi)."""
    rows, columns = weight.shape
    return weight.view(rows // head_dim, 2, head_dim // 2, columns).transpose(1, 2).reshape(rows, columns)
