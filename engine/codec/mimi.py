"""Mimi: frames of codes to sound, a row per slot, and recordings to codes. The only importer of moshi."""

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

# moshi decorates its rotary embedding with torch.compile at import. For the few rows of a codec that costs a
# minute and a C compiler and gives nothing.
_compile_was = os.environ.get("NO_TORCH_COMPILE")
os.environ["NO_TORCH_COMPILE"] = "1"
try:
    from moshi.models.compression import MimiModel
    from moshi.models.loaders import DEFAULT_REPO, MIMI_NAME, get_mimi
    from moshi.modules.streaming import State, StreamingContainer
    from moshi.modules.transformer import RingKVCache, StreamingMultiheadAttention
finally:
    if _compile_was is None:
        del os.environ["NO_TORCH_COMPILE"]


class _Decoder(StreamingContainer):
    """The half of Mimi that makes sound. Streaming state lives here alone, so the encoder half stays as it is."""

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


def _widen_rings(decoder: _Decoder, mimi: MimiModel) -> None:
    """Make room in the attention's rings for all positions of one frame.

    A frame is several positions (25 Hz against 12.5). moshi's ring holds exactly the attention's context, so
    the frame's last position pushes out the oldest that its first one should still see, and a stream of more
    than ten seconds drifts from the same codes decoded whole. A little more capacity makes them equal.
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


class _Rows:
    """The streaming state of all rows, and views of its first rows: a frame costs what those take that speak.

    moshi gives every module a mask of its own for who speaks; here all share one, which is written once a frame.
    """

    def __init__(self, states: dict[str, State], rows: int, device: torch.device) -> None:
        self._states = states
        self._prefixes: dict[int, dict[str, State]] = {rows: states}
        self.speaking = torch.zeros(rows, dtype=torch.bool, device=device)
        self.used = rows  # of how many rows the modules hold the state
        for state in states.values():
            state.exec_mask = self.speaking

    def tensors(self) -> Iterator[Tensor]:
        """What the modules remember of their rows, which are the first dimension but in a ring."""
        for state in self._states.values():
            for value in vars(state).values():
                if isinstance(value, Tensor) and value is not self.speaking:
                    yield value
                elif isinstance(value, RingKVCache):
                    yield from (value.cache, value.end_offset)

    def first(self, rows: int) -> dict[str, State]:
        """The same state for the modules to hold, of the first rows alone."""
        if rows not in self._prefixes:
            self._prefixes[rows] = {name: _prefix(state, rows) for name, state in self._states.items()}
        self.used = rows
        return self._prefixes[rows]

    def first_said(self, row: int) -> Iterator[Tensor]:
        """What has to be zero for a row that has said nothing. A ring that is at its start is not read."""
        return (tensor[row] for tensor in self.tensors() if tensor.ndim < _RING_DIMENSIONS)


_RING_DIMENSIONS = 5  # (keys and values, rows, heads, capacity, dim)


def _prefix(state: State, rows: int) -> State:
    """A state that shares its tensors' first rows with this one."""
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
    """Streaming decode with a row per slot, and encode for voices. float32 throughout."""

    def __init__(self, mimi: MimiModel) -> None:
        if mimi.sample_rate != SAMPLE_RATE or mimi.frame_size != FRAME_SAMPLES:
            raise CheckpointError(
                f"the codec makes {mimi.frame_size} samples a frame at {mimi.sample_rate} Hz; "
                f"CSM's Mimi makes {FRAME_SAMPLES} at {SAMPLE_RATE}"
            )
        self._mimi = mimi.eval()
        self._decoder = _Decoder(mimi)
        self.device = next(mimi.parameters()).device
        self.codebook_size: int = mimi.cardinality
        self._rows: _Rows | None = None

    def allocate(self, rows: int) -> None:
        """Streaming state for so many rows, in place of what there was. `decode` and `reset` need it."""
        self._rows = None
        self._decoder._stop_streaming()
        self._decoder.streaming_forever(rows)
        _widen_rings(self._decoder, self._mimi)
        self._rows = _Rows(self._decoder.get_streaming_state(), rows, self.device)

    @property
    def state_nbytes(self) -> int:
        """What the rows' streaming state takes."""
        return sum(tensor.nbytes for tensor in self._allocated.tensors())

    @property
    def _allocated(self) -> _Rows:
        assert self._rows is not None, "allocate() comes first"
        return self._rows

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the codec by moshi's name; the rows' streaming state is none of them."""
        return self._mimi.state_dict()

    def decode(self, codes: Tensor, speaking: Tensor) -> Tensor:
        """One frame of the first rows: codes (rows, codebooks), speaking bool (rows,) -> samples (rows, 1920).

        A row that does not speak keeps its state; what comes out in its place means nothing. Asks for no tensor's
        values, so a graph can hold it.
        """
        rows = self._allocated
        if rows.used != codes.shape[0]:
            self._decoder.set_streaming_state(rows.first(codes.shape[0]))
        rows.speaking[: codes.shape[0]] = speaking
        return cast(Tensor, self._decoder(codes[:, :, None]))[:, 0]

    def reset(self, row: int) -> None:
        """Forget what a row has said."""
        for tensor in self._allocated.first_said(row):
            tensor.zero_()

    def encode(self, samples: np.ndarray[Any, Any], sample_rate: int = SAMPLE_RATE) -> Tensor:
        """A mono recording, float32 (samples,), to codes int64 (frames, codebooks); the last frame is padded."""
        wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(self.device)
        if sample_rate != SAMPLE_RATE:
            import torchaudio.functional

            wave = torchaudio.functional.resample(wave, sample_rate, SAMPLE_RATE)
        padding = -wave.shape[0] % FRAME_SAMPLES
        wave = nn.functional.pad(wave, (0, padding))
        return self._mimi.encode(wave[None, None])[0].T


def frame_count(samples: int, sample_rate: int) -> int:
    """How many frames `encode` makes of a recording."""
    resampled = -(-samples * SAMPLE_RATE // sample_rate)  # torchaudio rounds up
    return -(-resampled // FRAME_SAMPLES)


def load_moshi_mimi(path: str | None, codebooks: int, device: torch.device, token: str | None) -> MimiCodec:
    """Mimi from moshi's own file, or from moshi's default repository if `path` is None."""
    if path is None:
        import huggingface_hub

        path = huggingface_hub.hf_hub_download(DEFAULT_REPO, MIMI_NAME, token=token)
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: is missing; it should be Mimi as moshi publishes it ({MIMI_NAME})")
    if not path.endswith(".safetensors"):
        raise CheckpointError(f"{path}: Mimi's weights must be a .safetensors file; others could run foreign code")
    try:
        mimi = get_mimi(path, device=device, num_codebooks=codebooks)
    except Exception as error:
        raise CheckpointError(f"{path}: is not Mimi as moshi publishes it: {error}") from error
    return MimiCodec(mimi)


def load_transformers_mimi(config: Any, tensors: Tensors, codebooks: int, device: torch.device) -> MimiCodec:
    """Mimi from the weights inside CSM's transformers layout (names under `codec_model.`).

    config: transformers' MimiConfig. Raises CheckpointError that names the file and the tensor.
    """
    mimi = get_mimi(None, _moshi_config(config), device="cpu", num_codebooks=codebooks)
    state = {}
    for name, wanted in mimi.state_dict().items():
        parts = [_theirs(tensors, theirs, config) for theirs in _transformers_names(name)]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"codec_model: {_transformers_names(name)[0]!r} has shape {tuple(tensor.shape)}, "
                f"but config.json asks for {tuple(wanted.shape)}"
            )
        state[name] = tensor.to(wanted.dtype)
    mimi.load_state_dict(state)
    return MimiCodec(mimi.to(device))


def _moshi_config(config: Any) -> dict[str, Any]:
    """moshi's configuration from transformers'. What moshi's module cannot do is refused by name."""
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


# moshi's name -> transformers', as patterns applied in turn
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
    """Where a tensor of moshi's Mimi is in transformers' layout; q, k and v are one in moshi."""
    for pattern, theirs in _NAMES:
        name = re.sub(pattern, theirs, name)
    name = "codec_model." + name
    if ".in_projs.0." in name:
        return [name.replace("in_projs.0", f"{projection}_proj") for projection in "qkv"]
    return [name]


def _theirs(tensors: Tensors, name: str, config: Any) -> Tensor:
    tensor = tensors.get(name)
    if re.search(r"\.[qk]_proj\.", name):
        tensor = pairs_from_halves(tensor, config.hidden_size // config.num_attention_heads)
    return tensor


def pairs_from_halves(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of q or k from half-split RoPE (transformers) to interleaved RoPE (moshi)."""
    rows, columns = weight.shape
    return weight.view(rows // head_dim, 2, head_dim // 2, columns).transpose(1, 2).reshape(rows, columns)
