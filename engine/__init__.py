"""The CSM engine: requests in, audio out. It knows no HTTP and reads no environment variables.

Importing this package does not import torch; calling `load_engine` or `load_encoder` does.
"""

from __future__ import annotations

from .config import AUTO_SLOTS, CPU_SLOTS, FALLBACK_MODEL, HOW_TO_GET_WEIGHTS, KOKORO_MODEL, EngineConfig
from .errors import (
    CheckpointError,
    CheckpointNotFound,
    EngineClosed,
    EngineError,
    EngineFailed,
    EngineOutOfMemory,
    InvalidMarkup,
    InvalidRequest,
    NoWords,
    PromptTooLong,
)
from .interface import Encoder, Engine, Progress
from .lexicon import Lexicon, parse_lexicon
from .loop_bridge import LoopBridge, running_loop_bridge
from .machine_limits import Cores, MachineLimits, Memory
from .onnx import import_onnxruntime, inference_session
from .stream import SpeechStream
from .text import has_words, normalize, sentences_end, speakable_end, split_text, split_written, spoken_text
from .text_feed import TextFeed
from .timing import TextTiming, Word
from .types import (
    FRAME_MILLISECONDS,
    FRAME_SAMPLES,
    MAX_GAP_MILLISECONDS,
    MIN_GAP_MILLISECONDS,
    SAMPLE_RATE,
    AudioChunk,
    Codes,
    CodesStore,
    DialogueTurn,
    EngineStatus,
    Speech,
    SpeechRequest,
    SpeechSegment,
    VoicePrompt,
)
from .word_times import estimate_word_times

__all__ = [
    "AUTO_SLOTS",
    "CPU_SLOTS",
    "FALLBACK_MODEL",
    "FRAME_MILLISECONDS",
    "FRAME_SAMPLES",
    "HOW_TO_GET_WEIGHTS",
    "KOKORO_MODEL",
    "MAX_GAP_MILLISECONDS",
    "MIN_GAP_MILLISECONDS",
    "SAMPLE_RATE",
    "AudioChunk",
    "CheckpointError",
    "CheckpointNotFound",
    "Codes",
    "CodesStore",
    "Cores",
    "DialogueTurn",
    "Encoder",
    "Engine",
    "EngineClosed",
    "EngineConfig",
    "EngineError",
    "EngineFailed",
    "EngineOutOfMemory",
    "EngineStatus",
    "InvalidMarkup",
    "InvalidRequest",
    "Lexicon",
    "LoopBridge",
    "MachineLimits",
    "Memory",
    "NoWords",
    "Progress",
    "PromptTooLong",
    "Speech",
    "SpeechRequest",
    "SpeechSegment",
    "SpeechStream",
    "TextFeed",
    "TextTiming",
    "VoicePrompt",
    "Word",
    "estimate_word_times",
    "has_words",
    "import_onnxruntime",
    "inference_session",
    "load_encoder",
    "load_engine",
    "normalize",
    "parse_lexicon",
    "running_loop_bridge",
    "sentences_end",
    "speakable_end",
    "split_text",
    "split_written",
    "spoken_text",
]


def load_engine(config: EngineConfig, progress: Progress | None = None) -> Engine:
    """Build and start the engine that the config names.

    progress: called with (fraction done, current activity), on the calling thread.
    Raises CheckpointNotFound, CheckpointError.
    """
    report = progress or (lambda fraction, activity: None)
    if config.model == FALLBACK_MODEL:
        from .fallback.espeak import EspeakEngine

        return EspeakEngine(config, report)
    if config.model == KOKORO_MODEL:
        from .kokoro.engine import KokoroEngine

        return KokoroEngine(config, report)
    from .engine_core import CsmEngine

    return CsmEngine.load(config, report)


def load_encoder(config: EngineConfig) -> Encoder:
    """Load the codec of the checkpoint that the config names, without the model.

    Raises CheckpointNotFound, CheckpointError, InvalidRequest (a device that is not available).
    """
    from .loading import load_encoder as load

    return load(config)
