"""What each row has to read before it speaks: voice, text chunks, and how far that has come. Engine's thread,
but for `plan`, which is pure and runs on the caller's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .codec.mimi import frame_count
from .context import Context, Prefill, Span, TextChunk, plan_chunks
from .errors import InvalidRequest
from .model.tokenizer import TextTokenizer
from .model_runner import ModelRunner, SamplingParams
from .request_state import RequestState, RowState
from .stream import AudioQueue
from .types import Codes, SpeechRequest, Spoken
from .voice_cache import CachedVoice, VoiceCache, VoiceKey
from .voice_encoder import Encoding, VoiceEncoder


class PromptBuilder:
    """Plans requests, and brings their rows to the point where they speak."""

    def __init__(
        self, runner: ModelRunner, tokenizer: TextTokenizer, voices: VoiceCache, encoder: VoiceEncoder, slots: int
    ) -> None:
        config = runner.model.config
        self.voices = voices
        self.limit = config.positions
        self._runner, self._tokenizer, self._encoder, self._slots = runner, tokenizer, encoder, slots
        self._silence: Codes = np.full((1, config.codebooks), config.stop_code, dtype=np.int64)

    # ---- the caller's thread

    def plan(self, request: SpeechRequest, queue: AudioQueue) -> RequestState:
        """What the request needs. Raises InvalidRequest or PromptTooLong if it can never be spoken."""
        guided = request.guidance > 0
        if guided and self._slots < 2:
            raise InvalidRequest("guidance above 0 takes two slots, and this engine has one; set guidance to 0")
        self._check(request.history)
        room = self.limit - self._voice_length(request) - 2  # a closing frame, and a last frame not fed yet
        chunks = plan_chunks(
            request.text,
            request.chunk_characters,
            room,
            lambda text: self._tokenizer.encode(text, request.speaker),
            request.max_frames if request.ignore_stop else None,
        )
        tracks = [RowState(True, chunks, _key(request, spoken=True))]
        if guided:
            nothing = self._tokenizer.encode("", request.speaker)
            silent = [TextChunk("", nothing, chunk.bound) for chunk in chunks]
            tracks.append(RowState(False, silent, _key(request, spoken=False)))
        seed = random.getrandbits(64) if request.seed is None else request.seed
        return RequestState(request, queue, tracks, seed=(seed + (1 << 63)) % (1 << 64) - (1 << 63))

    def _check(self, history: Sequence[Spoken]) -> None:
        codebooks, vocab = self._silence.shape[1], self._runner.model.sampled_vocab
        for said in history:
            codes = said.codes
            if codes.ndim != 2 or codes.shape[1] != codebooks or (codes < 0).any() or (codes >= vocab).any():
                raise InvalidRequest(
                    f"history must hold codes of this engine, (frames, {codebooks}) from 0 to {vocab - 1}; "
                    f"found {codes.shape}"
                )

    def _voice_length(self, request: SpeechRequest) -> int:
        if request.voice is None:
            return 0
        frames = frame_count(request.voice.samples.size, request.voice.sample_rate)
        return len(self._transcript(request, spoken=True)) + frames + 1

    def _transcript(self, request: SpeechRequest, spoken: bool) -> list[int]:
        assert request.voice is not None
        return self._tokenizer.encode(request.voice.transcript if spoken else "", _speaker(request))

    # ---- the engine's thread

    def expect(self, utterance: RequestState) -> None:
        """Have its recording encoded, if it has to be read and its codes are not known."""
        voice = utterance.request.voice
        if voice is None or utterance.encoding is not None:
            return
        if all(track.voice in self.voices for track in utterance.tracks):
            return
        if (codes := self.voices.codes(voice.key)) is not None:
            utterance.encoding = Encoding(voice, codes)
        else:
            utterance.encoding = self._encoder.encode(voice, utterance.queue)

    def keep_codes(self) -> None:
        """What was encoded meanwhile is known from now on."""
        for encoding in self._encoder.take_done():
            if encoding.codes is not None:
                self.voices.put_codes(encoding.voice.key, encoding.codes)

    def _begin_rows(self, utterance: RequestState) -> None:
        """How the rows sample, and that they have said nothing."""
        request, rows = utterance.request, utterance.rows
        settings = SamplingParams(
            seed=utterance.seed,
            temperature_first=request.temperature * (0.5 + request.exaggeration),
            temperature=request.temperature,
            top_k=request.top_k,
        )
        if len(rows) == 1:
            self._runner.begin(rows[0], settings)
        else:  # one sampler: the second row only says what the model would say without the text
            self._runner.begin(rows[0], replace(settings, guidance=request.guidance, unconditional=rows[1]))
            self._runner.begin(rows[1], replace(settings, sampler=rows[0]))

    def _begin_prompt(self, utterance: RequestState) -> None:
        """Set the rows up and queue what they have to read: voice, conversation, the first chunk of text."""
        request = utterance.request
        self._begin_rows(utterance)
        for track, row in zip(utterance.tracks, utterance.rows, strict=True):
            track.context = Context(self.limit, self._begin_voice(utterance, track, row), self._silence)
            for said in request.history:
                tokens = self._tokenizer.encode(said.text if track.spoken else "", said.speaker)
                track.context.remember(tokens, said.codes)
        utterance.encoding = None
        self.begin_chunk(utterance)

    def _begin_voice(self, utterance: RequestState, track: RowState, row: int) -> int:
        """Put the voice into the row, from the cache or to be prefilled. Gives the positions that it takes."""
        if track.voice is None:
            return 0
        known = self.voices.get(track.voice)
        if known is not None:
            self._runner.restore(row, known.saved)
            return known.length
        assert utterance.encoding is not None
        transcript = self._transcript(utterance.request, track.spoken)
        spans: list[Span] = [transcript, utterance.encoding.result(), self._silence]
        track.pending.append(Prefill(0, spans))
        track.reads_voice = True
        return sum(map(len, spans))

    def begin_chunk(self, utterance: RequestState) -> None:
        """Queue the next chunk of text."""
        apart = utterance.request.overlap == "zero" and utterance.chunk_index > 0
        for track, row in zip(utterance.tracks, utterance.rows, strict=True):
            assert track.context is not None
            if apart:
                track.context.forget()
                self._runner.forget_sound(row)
            track.pending.append(track.context.begin(track.chunks[utterance.chunk_index]))
            track.started = False

    def advance(self, utterance: RequestState, budget: int, wait: bool) -> int:
        """Prefill at most `budget` positions of it, and note if that makes it ready. Gives back what is left.

        Without a budget none is begun either: that of a whole burst would take as long as a frame.
        wait: nobody else is speaking, so the device may be waited for.
        """
        if utterance.tracks[0].context is None:
            if budget <= 0:
                return budget
            self.expect(utterance)  # again: what was known when it came may have had to go since
            if utterance.awaits_codes:
                return budget
            self._begin_prompt(utterance)
        for track, row in zip(utterance.tracks, utterance.rows, strict=True):
            while track.pending and budget > 0:
                length = sum(map(len, track.pending[0].spans))
                rest = self._runner.prefill(row, track.pending[0], budget)
                budget -= length if rest is None else budget
                track.pending[:1] = [] if rest is None else [rest]
            if not track.pending and not track.started:
                assert track.context is not None
                self._keep_voice(track, row)
                self._runner.start(row, track.context.position)
                track.started = True
        utterance.ready = all(
            track.started and self._runner.is_prefilled(row, wait)
            for track, row in zip(utterance.tracks, utterance.rows, strict=True)
        )
        return budget

    def _keep_voice(self, track: RowState, row: int) -> None:
        if track.reads_voice:
            assert track.voice is not None
            assert track.context is not None
            length = track.context.reserved
            self.voices.put(track.voice, CachedVoice(length, self._runner.saved(row, length)))
            track.reads_voice = False


def _key(request: SpeechRequest, spoken: bool) -> VoiceKey | None:
    """Names the voice by a hash of all its samples: long enough to be worked out where nobody speaks."""
    return None if request.voice is None else VoiceKey(request.voice.key, _speaker(request), spoken)


def _speaker(request: SpeechRequest) -> int:
    """The speaker that the voice's segment is written under."""
    assert request.voice is not None
    return request.speaker if request.voice.speaker is None else request.voice.speaker
