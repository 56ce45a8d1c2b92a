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
from .types import Codes, SpeechRequest, SpeechSegment
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
        self._eos_frame: Codes = np.full((1, config.codebooks), config.stop_code, dtype=np.int64)

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
        row_states = [RowState(True, chunks, _key(request, with_text=True))]
        if guided:
            nothing = self._tokenizer.encode("", request.speaker)
            silent = [TextChunk("", nothing, chunk.max_frames) for chunk in chunks]
            row_states.append(RowState(False, silent, _key(request, with_text=False)))
        seed = random.getrandbits(64) if request.seed is None else request.seed
        return RequestState(request, queue, row_states, seed=(seed + (1 << 63)) % (1 << 64) - (1 << 63))

    def _check(self, history: Sequence[SpeechSegment]) -> None:
        codebooks, vocab = self._eos_frame.shape[1], self._runner.model.sampled_vocab
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
        return len(self._transcript(request, with_text=True)) + frames + 1

    def _transcript(self, request: SpeechRequest, with_text: bool) -> list[int]:
        assert request.voice is not None
        return self._tokenizer.encode(request.voice.transcript if with_text else "", _speaker(request))

    # ---- the engine's thread

    def request_voice_codes(self, state: RequestState) -> None:
        """Have its recording encoded, if it has to be read and its codes are not known."""
        voice = state.request.voice
        if voice is None or state.encoding is not None:
            return
        if all(row_state.voice in self.voices for row_state in state.row_states):
            return
        if (codes := self.voices.codes(voice.key)) is not None:
            state.encoding = Encoding(voice, codes)
        else:
            state.encoding = self._encoder.encode(voice, state.queue)

    def cache_voice_codes(self) -> None:
        """What was encoded meanwhile is known from now on."""
        for encoding in self._encoder.take_finished():
            if encoding.codes is not None:
                self.voices.put_codes(encoding.voice.key, encoding.codes)

    def _begin_rows(self, state: RequestState) -> None:
        """How the rows sample, and that they have said nothing."""
        request, rows = state.request, state.rows
        settings = SamplingParams(
            seed=state.seed,
            temperature_first=request.temperature * (0.5 + request.exaggeration),
            temperature=request.temperature,
            top_k=request.top_k,
        )
        if len(rows) == 1:
            self._runner.reset_row(rows[0], settings)
        else:  # one sampler: the second row only says what the model would say without the text
            self._runner.reset_row(rows[0], replace(settings, guidance=request.guidance, unconditional=rows[1]))
            self._runner.reset_row(rows[1], replace(settings, sampler=rows[0]))

    def _begin_prompt(self, state: RequestState) -> None:
        """Set the rows up and queue what they have to read: voice, conversation, the first chunk of text."""
        request = state.request
        self._begin_rows(state)
        for row_state, row in zip(state.row_states, state.rows, strict=True):
            row_state.context = Context(self.limit, self._begin_voice(state, row_state, row), self._eos_frame)
            for said in request.history:
                tokens = self._tokenizer.encode(said.text if row_state.with_text else "", said.speaker)
                row_state.context.add_segment(tokens, said.codes)
        state.encoding = None
        self.queue_chunk(state)

    def _begin_voice(self, state: RequestState, row_state: RowState, row: int) -> int:
        """Put the voice into the row, from the cache or to be prefilled. Gives the positions that it takes."""
        if row_state.voice is None:
            return 0
        known = self.voices.get(row_state.voice)
        if known is not None:
            self._runner.restore_kv(row, known.saved)
            return known.length
        assert state.encoding is not None
        transcript = self._transcript(state.request, row_state.with_text)
        spans: list[Span] = [transcript, state.encoding.result(), self._eos_frame]
        row_state.pending.append(Prefill(0, spans))
        row_state.prefills_voice = True
        return sum(map(len, spans))

    def queue_chunk(self, state: RequestState) -> None:
        """Queue the next chunk of text."""
        apart = state.request.overlap == "zero" and state.chunk_index > 0
        for row_state, row in zip(state.row_states, state.rows, strict=True):
            assert row_state.context is not None
            if apart:
                row_state.context.reset()
                self._runner.reset_codec(row)
            row_state.pending.append(row_state.context.begin_chunk(row_state.chunks[state.chunk_index]))
            row_state.started = False

    def prefill(self, state: RequestState, budget: int, wait: bool) -> int:
        """Prefill at most `budget` positions of it, and note if that makes it ready. Gives back what is left.

        Without a budget none is begun either: that of a whole burst would take as long as a frame.
        wait: nobody else is speaking, so the device may be waited for.
        """
        if state.row_states[0].context is None:
            if budget <= 0:
                return budget
            self.request_voice_codes(state)  # again: what was known when it came may have had to go since
            if state.waiting_for_voice:
                return budget
            self._begin_prompt(state)
        for row_state, row in zip(state.row_states, state.rows, strict=True):
            while row_state.pending and budget > 0:
                length = sum(map(len, row_state.pending[0].spans))
                rest = self._runner.prefill(row, row_state.pending[0], budget)
                budget -= length if rest is None else budget
                row_state.pending[:1] = [] if rest is None else [rest]
            if not row_state.pending and not row_state.started:
                assert row_state.context is not None
                self._keep_voice(row_state, row)
                self._runner.start_row(row, row_state.context.position)
                row_state.started = True
        state.ready = all(
            row_state.started and self._runner.is_prefilled(row, wait)
            for row_state, row in zip(state.row_states, state.rows, strict=True)
        )
        return budget

    def _keep_voice(self, row_state: RowState, row: int) -> None:
        if row_state.prefills_voice:
            assert row_state.voice is not None
            assert row_state.context is not None
            length = row_state.context.voice_length
            self.voices.put(row_state.voice, CachedVoice(length, self._runner.copy_kv(row, length)))
            row_state.prefills_voice = False


def _key(request: SpeechRequest, with_text: bool) -> VoiceKey | None:
    """Names the voice by a hash of all its samples: long enough to be worked out where nobody speaks."""
    return None if request.voice is None else VoiceKey(request.voice.key, _speaker(request), with_text)


def _speaker(request: SpeechRequest) -> int:
    """The speaker that the voice's segment is written under."""
    assert request.voice is not None
    return request.speaker if request.voice.speaker is None else request.voice.speaker
