"""Mimi codec: streaming decode with one row per slot, and encoding. The only module that imports moshi.

Loading and encoding are moshi's. Decoding is `decoder.MimiDecoder`, with the weights of moshi's.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..model.weights import Tensors
from ..types import FRAME_SAMPLES, SAMPLE_RATE
from .decoder import DecoderState, MimiDecoder

# moshi decorates its rotary embedding with torch.compile at import. For the few rows of a codec that takes a minute
# and a C compiler, and gains nothing.
_saved_no_compile = os.environ.get("NO_TORCH_COMPILE")
os.environ["NO_TORCH_COMPILE"] = "1"
try:
    from moshi.models.compression import MimiModel
    from moshi.models.loaders import DEFAULT_REPO, MIMI_NAME, get_mimi
finally:
    if _saved_no_compile is None:
        del os.environ["NO_TORCH_COMPILE"]


class MimiCodec:
    """Streaming decoder with one row per slot, and encoder for voices. float32 throughout."""

    def __init__(self, mimi: MimiModel) -> None:
        if mimi.sample_rate != SAMPLE_RATE or mimi.frame_size != FRAME_SAMPLES:
            raise CheckpointError(
                f"the codec has {mimi.frame_size} samples per frame at {mimi.sample_rate} Hz; "
                f"CSM needs {FRAME_SAMPLES} at {SAMPLE_RATE} Hz"
            )
        self._mimi = mimi.eval()
        self.device = next(mimi.parameters()).device
        self.codebook_size: int = mimi.cardinality
        self._decoder: MimiDecoder | None = None
        self._state: DecoderState | None = None

    @property
    def decoder(self) -> MimiDecoder:
        """The streaming decoder. The first call builds it and releases moshi's, whose weights it takes."""
        if self._decoder is None:
            self._decoder = MimiDecoder(self._mimi).eval()
            del self._mimi.decoder, self._mimi.decoder_transformer, self._mimi.upsample
        return self._decoder

    def allocate(self, rows: int) -> None:
        """Allocate streaming state for `rows` rows, replacing any before. Required by `decode` and `reset`."""
        self._state = None
        self._state = self.decoder.allocate(rows)

    @property
    def state_nbytes(self) -> int:
        """Bytes of the streaming state of all rows."""
        return sum(tensor.nbytes for tensor in self._allocated.tensors())

    @property
    def weights_nbytes(self) -> int:
        """Bytes of the weights and buffers of the encoder and the decoder."""
        decoder = (*self.decoder.parameters(), *self.decoder.buffers())
        return sum(tensor.nbytes for tensor in (*self._mimi.state_dict().values(), *decoder))

    @property
    def _allocated(self) -> DecoderState:
        assert self._state is not None, "call allocate() first"
        return self._state

    def state(self) -> dict[str, Tensor]:
        """The weights and buffers by moshi's names. Only before `decoder` is used."""
        assert self._decoder is None, "the decoder has taken its weights"
        return self._mimi.state_dict()

    def encoder_state(self) -> dict[str, Tensor]:
        """The weights and buffers that `encode` uses, by moshi's names."""
        decoding = ("decoder", "decoder_transformer", "upsample")
        return {name: each for name, each in self._mimi.state_dict().items() if name.split(".")[0] not in decoding}

    def decode(self, codes: Tensor, active: Tensor) -> Tensor:
        """Decode one frame of the first rows: codes (rows, codebooks), active bool (rows,) -> samples (rows, 1920).

        Inactive rows keep their state; their samples are undefined. Reads no tensor values on the host, so it can be
        captured in a CUDA graph.
        """
        return cast(Tensor, self.decoder(codes, active, self._allocated))

    def reset(self, rows: Tensor) -> None:
        """Reset the streaming state of the rows that a mask, bool (rows,), holds. Can be captured in a CUDA graph."""
        self._allocated.reset(rows)

    @contextlib.contextmanager
    def moshi_streaming(self, rows: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """moshi's own streaming decoder, for comparison: codes (rows, codebooks) -> samples (rows, 1920).

        Only before `decoder` is used.
        """
        assert self._decoder is None, "the decoder has taken its weights"
        with self._mimi.streaming(rows):
            yield lambda codes: self._mimi.decode(codes[:, :, None])[:, 0]

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

    config: with the attributes of transformers' MimiConfig. Raises CheckpointError naming the file and the tensor.
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
