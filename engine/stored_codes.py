"""Encodes voices, or takes their codes from the store that comes with a voice: one encoding for all machines."""

from __future__ import annotations

import logging
from functools import cached_property

from .codec.encoder import weights_fingerprint
from .codec.mimi import frame_count
from .model_runner import ModelRunner
from .types import Codes, VoicePrompt

log = logging.getLogger(__name__)


class StoredCodes:
    """The encoding of voices, to be used from one thread.

    Codes are kept under a fingerprint of the weights that encode, so a model with others never reads them.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._codebooks = runner.model.config.codebooks

    def encode(self, voice: VoicePrompt) -> Codes:
        """The codes (frames, codebooks) of a voice: stored ones where there are any that fit the recording."""
        if voice.codes_store is None:
            return self._runner.encode(voice.samples, voice.sample_rate)
        codes = voice.codes_store.load(voice.key, self._codec)
        if codes is not None and self._fits(codes, voice):
            return codes
        if codes is not None:
            log.warning("the stored codes of a voice do not fit its recording, and are replaced: %s", codes.shape)
        codes = self._runner.encode(voice.samples, voice.sample_rate)
        voice.codes_store.save(voice.key, self._codec, codes)
        return codes

    @cached_property
    def _codec(self) -> str:
        return weights_fingerprint(self._runner.codec.encoder_state(), self._codebooks)

    def _fits(self, codes: Codes, voice: VoicePrompt) -> bool:
        shape = (frame_count(voice.samples.size, voice.sample_rate), self._codebooks)
        return codes.shape == shape and bool((codes >= 0).all() and (codes < self._runner.codec.codebook_size).all())
