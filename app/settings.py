"""All settings of the service (API.md section 8). `settings_loader` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .reference_hosts import ReferenceHosts
from .watermark_key import PUBLIC_KEY, parse_key

DEFAULT_MODEL = "sesame/csm-1b"  # without MODEL_PATH


class Settings(BaseSettings):
    """Settings from the environment and `.env`; the environment wins. An empty value counts as unset.

    The description of a field gives its valid values; error messages and `csm-serve --help` show it.
    """

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    # Access
    api_key: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        min_length=1, description="one or more keys, separated by commas; each client sends one of them"
    )
    api_keys_file: Path | None = Field(
        default=None, description="a file of further keys with limits; csm-serve keys writes it"
    )
    rate_limit_url: SecretStr | None = Field(
        default=None, description="redis://HOST:PORT/DB, rediss:// or redis+unix://PATH, to hold limits across machines"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("*",), description="origins whose web pages may call, separated by commas, or * for all"
    )

    # Address
    host: str = Field(default="0.0.0.0", description="the address to listen on; 127.0.0.1 is this machine only")
    port: int = Field(default=8000, ge=1, le=65535, description="a whole number from 1 to 65535")
    port_health: int | None = Field(
        default=None, ge=1, le=65535, description="one more port, which RunPod's load balancer asks for /ping"
    )

    # The model
    model_path: str | None = Field(default=None, description="a directory or a hub id; unset tries sesame/csm-1b")
    hf_token: SecretStr | None = Field(default=None, description="a hub token with access to sesame/csm-1b")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto, float32, bfloat16 or float16"
    )
    depth_weights: Literal["auto", "int8"] = Field(
        default="auto", description="auto (as DTYPE says) or int8 (half the bytes, other codes)"
    )
    compile: Literal["auto", "on", "off"] = Field(default="auto", description="auto (on for a GPU), on or off")
    fast_start: Literal["on", "off"] = Field(
        default="off", description="on (ready sooner: voices and most CUDA graphs are prepared afterwards) or off"
    )
    fallback_engine: Literal["kokoro", "espeak-ng", "none"] = Field(
        default="kokoro", description="kokoro, espeak-ng, or none to fail without CSM's weights"
    )
    kokoro_voices: str = Field(
        default="onnx-community/Kokoro-82M-v1.0-ONNX",
        description="a hub id with Kokoro's English voices, or off for those that are installed",
    )

    # Voices
    voices_dir: Path = Field(default=Path("voices"), description="a directory for uploads; created if missing")
    preloaded_voices_dir: Path = Field(
        default=Path("preloaded-voices"), description="a directory of voices that cannot be changed over HTTP"
    )
    voices_url: str | None = Field(
        default=None, description="uploads of many machines: s3://, gs:// or az://bucket/folder, file:///folder"
    )
    voices_storage_options: SecretStr | None = Field(
        default=None, description='fsspec\'s options for VOICES_URL as JSON, such as {"endpoint_url": "https://…"}'
    )
    voices_check_seconds: float = Field(
        default=0.0, ge=0, le=3600, description="seconds from 0 (each request) that a shared voice counts as unchanged"
    )
    voices_timeout_seconds: float = Field(
        default=3.0, gt=0, le=60, description="seconds, above 0, that VOICES_URL may take for an answer"
    )
    voices_mirror_mb: float = Field(
        default=1024.0, gt=0, description="megabytes, above 0, of copies of shared voices in VOICES_DIR"
    )
    reference_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="hosts such as cdn.example.org or 10.0.0.5:9000, networks such as 10.0.0.0/8, by commas"
    )
    max_voice_seconds: float = Field(default=30.0, gt=0, le=600, description="seconds, above 0 and at most 600")
    max_upload_mb: float = Field(default=25.0, gt=0, le=1024, description="megabytes, above 0 and at most 1024")

    # Load
    workers: int | None = Field(
        default=None, ge=1, le=256, description="auto (one for each visible GPU, 1 on a CPU) or a whole number from 1"
    )
    http_workers: int = Field(
        default=0,
        ge=0,
        le=256,
        description="0 (each worker serves HTTP and has an engine), or how many processes serve HTTP without one",
    )
    concurrent_requests_per_worker: int | None = Field(
        default=None, ge=1, le=4096, description="auto (from the GPU's memory, 4 on a CPU) or a whole number from 1"
    )
    cuda_streams: int | None = Field(
        default=None, ge=1, le=32, description="auto (2 on a GPU) or 1 to 32: streams that prompts are prefilled on"
    )
    max_queued_requests: int = Field(default=64, ge=0, description="a whole number from 0, for each worker")
    websocket_idle_seconds: float = Field(
        default=300.0, gt=0, description="seconds, above 0, that a WebSocket may be idle"
    )
    queue_timeout_seconds: float = Field(default=30.0, gt=0, description="seconds, above 0")
    resume: Literal["on", "off"] = Field(default="on", description="on or off")
    graceful_timeout_seconds: int = Field(default=30, ge=1, description="whole seconds from 1")
    start_timeout_seconds: float = Field(
        default=600.0, gt=0, description="seconds, above 0, that loading may make no progress"
    )
    engine_timeout_seconds: float = Field(
        default=60.0, gt=0, description="seconds, above 0, that the engine may make no progress"
    )

    # Texts and speech
    max_text_length: int = Field(default=5000, ge=1, description="characters, from 1")
    tts_synthesis_temperature: float = Field(default=0.8, ge=0, le=2, description="from 0 (greedy) to 2")
    tts_top_k: int = Field(default=50, ge=1, le=2051, description="a whole number from 1 to 2051")
    tts_cfg_guidance_weight: float = Field(default=0.0, ge=0, le=3, description="from 0 (off) to 3")
    tts_voice_exaggeration_factor: float = Field(default=0.5, ge=0, le=1, description="from 0 to 1; 0.5 is neutral")
    tts_text_processing_chunk_size: int = Field(default=150, ge=20, le=1000, description="characters, from 20 to 1000")
    tts_audio_tokens_per_slice: int = Field(default=5, ge=1, le=125, description="frames of 80 ms, from 1 to 125")
    tts_first_slice_frames: int = Field(default=1, ge=1, le=125, description="frames of 80 ms, from 1 to 125")
    tts_remove_leading_milliseconds: int = Field(default=0, ge=0, le=600_000, description="milliseconds, from 0")
    tts_remove_trailing_milliseconds: int = Field(default=0, ge=0, le=600_000, description="milliseconds, from 0")
    tts_chunk_overlap_strategy: Literal["full", "zero"] = Field(default="full", description="full or zero")
    tts_crossfade_duration_milliseconds: int = Field(
        default=30, ge=0, le=500, description="milliseconds, from 0 to 500"
    )
    tts_max_audio_length_ms: int = Field(
        default=600_000, ge=0, le=600_000, description="milliseconds, from 80 to 600000, or 0 for no limit"
    )
    tts_speech_token_queue_max_size: int = Field(
        default=2, ge=1, le=1000, description="slices, from 1; with the next setting: how far a slot may be ahead"
    )
    tts_pcm_chunk_queue_max_size: int = Field(default=3, ge=1, le=1000, description="slices, from 1")
    tts_normalize: Literal["on", "off"] = Field(default="on", description="on (English) or off")
    lexicon: Path | None = Field(default=None, description="a file with word = replacement on each line")
    csm_watermark_enabled: bool = Field(default=False, description="true (all speech is watermarked) or false")
    csm_watermark_key: SecretStr | None = Field(
        default=None, description="five numbers from 0 to 255, separated by commas"
    )

    # Conversation
    llm_base_url: str | None = Field(
        default=None, pattern=r"^https?://", description="an OpenAI-compatible URL such as http://127.0.0.1:11434/v1"
    )
    llm_api_key: SecretStr | None = Field(default=None, description="the key that LLM_BASE_URL wants")
    llm_model: str | None = Field(default=None, description="a model of LLM_BASE_URL; unset takes its first one")
    llm_instructions: str | None = Field(
        default=None, max_length=100_000, description="the system prompt of conversations that send none"
    )
    llm_timeout_seconds: float = Field(
        default=30.0, gt=0, le=600, description="seconds, above 0, that the language model may send nothing"
    )
    stt_base_url: str | None = Field(
        default=None, pattern=r"^https?://", description="an OpenAI-compatible URL that has /audio/transcriptions"
    )
    stt_api_key: SecretStr | None = Field(default=None, description="the key that STT_BASE_URL wants")
    stt_model: str | None = Field(
        default=None,
        description="a model of STT_BASE_URL, moonshine/base or moonshine/tiny, or one of faster-whisper's; unset is "
        "whisper-1, or small.en here",
    )
    stt_timeout_seconds: float = Field(
        default=30.0, gt=0, le=600, description="seconds, above 0, that a transcription may take"
    )
    smart_turn: bool = Field(
        default=True, description="true (semantic_vad hears whether a turn is finished, if pipecat-ai is here) or false"
    )
    realtime_sessions_per_worker: int = Field(
        default=200, ge=1, le=100_000, description="a whole number from 1, of conversations"
    )
    realtime_user_audio: bool = Field(
        default=True, description="true (the user's audio is part of CSM's context) or false"
    )

    # Cluster
    cluster_min_replicas: int = Field(default=1, ge=1, le=100_000, description="a whole number from 1, of GPUs")
    cluster_max_replicas: int | None = Field(
        default=None, ge=1, le=100_000, description="a whole number from 1; unset is CLUSTER_MIN_REPLICAS"
    )
    cluster_target_load: float = Field(
        default=0.7, gt=0, le=1, description="the share of slots, above 0 and at most 1, that may be busy"
    )

    cluster_upscale_seconds: float = Field(
        default=10.0, ge=0, description="seconds, from 0, that more replicas must be wanted"
    )
    cluster_downscale_seconds: float = Field(
        default=120.0, ge=0, description="seconds, from 0, that fewer replicas must be wanted"
    )

    # Operation
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="text, or json for one object per line")
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None, pattern=r"^https?://", description="an OpenTelemetry collector such as http://127.0.0.1:4318"
    )
    debug: bool = Field(default=False, description="true (one worker that reloads changed code) or false")

    @field_validator("api_key", "cors_origins", "reference_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value

    @field_validator("workers", "concurrent_requests_per_worker", "cuda_streams", mode="before")
    @classmethod
    def _auto_to_none(cls, value: object) -> object:
        return None if isinstance(value, str) and value.strip().lower() == "auto" else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.strip().upper() if isinstance(value, str) else value

    @field_validator(
        "fallback_engine",
        "fast_start",
        "log_format",
        "dtype",
        "depth_weights",
        "compile",
        "tts_chunk_overlap_strategy",
        "tts_normalize",
        "resume",
        mode="before",
    )
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("reference_hosts")
    @classmethod
    def _check_reference_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        ReferenceHosts.parse(value)
        return value

    @field_validator("tts_max_audio_length_ms")
    @classmethod
    def _check_audio_length(cls, value: int) -> int:
        if 0 < value < 80:
            raise ValueError("it is less than one frame of 80 ms")
        return value

    @field_validator("voices_storage_options")
    @classmethod
    def _check_storage_options(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not isinstance(_json(value), dict):
            raise ValueError("it is not a JSON object")
        return value

    @field_validator("rate_limit_url")
    @classmethod
    def _check_rate_limit_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://", "redis+unix://")):
            raise ValueError("it is no URL of Redis")
        return value

    @field_validator("csm_watermark_key")
    @classmethod
    def _check_watermark_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_key(value.get_secret_value())
        return value

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """What to listen on, as (host, port)."""
        return [(self.host, port) for port in dict.fromkeys((self.port, self.port_health or self.port))]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key.get_secret_value() for key in self.api_key)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        others = (self.hf_token, self.llm_api_key, self.stt_api_key, self.voices_storage_options, self.rate_limit_url)
        options = (each for each in self.storage_options.values() if isinstance(each, str) and "://" not in each)
        return (*self.keys, *(each.get_secret_value() for each in others if each is not None), *options)

    @property
    def storage_options(self) -> dict[str, object]:
        """VOICES_STORAGE_OPTIONS, parsed."""
        options = self.voices_storage_options
        return {} if options is None else cast("dict[str, object]", _json(options))

    @property
    def watermark_key(self) -> bytes:
        """The key for requests without a key of their own."""
        key = self.csm_watermark_key
        return PUBLIC_KEY if key is None else parse_key(key.get_secret_value())

    @property
    def json_limit(self) -> int:
        """Maximum bytes of a body or a message with a text: a character takes at most 12, escaped in JSON."""
        return max(1 << 20, 16 * self.max_text_length)

    @property
    def audio_queue_slices(self) -> int:
        """How many slices a slot may be ahead of its client."""
        return self.tts_speech_token_queue_max_size + self.tts_pcm_chunk_queue_max_size


class KeySettings(BaseSettings):
    """Where the keys are, for the command that edits them."""

    model_config = Settings.model_config

    api_keys_file: Path | None = None


class ModelSettings(BaseSettings):
    """The model settings, for commands that load the model without the service."""

    model_config = Settings.model_config

    model_path: str | None = None
    hf_token: SecretStr | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    @property
    def model(self) -> str:
        return self.model_path or DEFAULT_MODEL

    @property
    def hub_token(self) -> str | None:
        return None if self.hf_token is None else self.hf_token.get_secret_value()


def _json(value: SecretStr) -> object:
    """Raises ValueError."""
    try:
        return json.loads(value.get_secret_value())
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
