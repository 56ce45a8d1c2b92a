"""Builds and prefills each row's prompt: voice, conversation history, text chunk.

Runs on the engine thread, except `plan`, which is pure and runs on the caller's thread. Text chunks after the first are
planned on a thread of their own, while the one before is spoken.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from .chunk_plan import ChunkPlan
from .codec.mimi import frame_count
from .context import Context, Prefill, Span, fixed_chunk, plan_chunks
from .errors import InvalidRequest
from .model.tokenizer import TextTokenizer
from .model_runner import ModelRunner, SamplingParams
from .prompt_packing import PromptPiece, take
from .request_state import RequestState, RowState
from .stream import AudioQueue
from .text import request_chunks, spoken_text
from .types import Codes, SpeechRequest, SpeechSegment
from .voice_cache import CachedVoice, VoiceCache, VoiceKey
from .voice_encoder import Encoding, VoiceEncoder


class PromptBuilder:
    """Plans requests and prefills their rows until they can decode.

    on_planned: called on the planning thread when a text chunk is planned that a request may wait for.
    """

    def __init__(
        self,
        runner: ModelRunner,
        tokenizer: TextTokenizer,
        voice_cache: VoiceCache,
        encoder: VoiceEncoder,
        slots: int,
        on_planned: Callable[[], None],
    ) -> None:
        config = runner.model.config
        self.voice_cache = voice_cache
        self.max_positions = config.positions
        self._runner, self._tokenizer, self._encoder, self._slots = runner, tokenizer, encoder, slots
        self._eos_frame: Codes = np.full((1, config.codebooks), config.stop_code, dtype=np.int64)
        self._planner, self._on_planned = ThreadPoolExecutor(1, "csm-text"), on_planned

    def close(self) -> None:
        self._planner.shutdown(cancel_futures=True)

    # ---- the caller's thread

    def plan(self, request: SpeechRequest, queue: AudioQueue) -> RequestState:
        """Plan the first text chunk. Raises InvalidRequest or PromptTooLong if the request can never be served."""
        guided = request.guidance > 0
        if guided and self._slots < 2:
            raise InvalidRequest("guidance above 0 takes two slots, and this engine has one: set guidance to 0")
        self._check_history(request.history)
        # 2 positions for the EOS frame and a last frame that is not fed yet
        free = self.max_positions - self._voice_positions(request) - 2
        tokenize = partial(self._tokenizer.encode, speaker=request.speaker)
        if request.ignore_stop:
            assert request.max_frames is not None
            text = spoken_text(request.text, normalizes=request.normalize, lexicon=request.lexicon)
            chunks = ChunkPlan(iter([fixed_chunk(text, free, tokenize, request.max_frames)]))
        else:
            growing = request.more is not None
            planned = plan_chunks(request_chunks(request), free, tokenize, growing=growing)
            chunks = ChunkPlan(planned, request.more)
        row_states = [RowState(voice=_voice_key(request, with_text=True))]
        if guided:
            row_states.append(RowState(tokenize(""), _voice_key(request, with_text=False)))
        seed = random.getrandbits(64) if request.seed is None else request.seed
        return RequestState(request, queue, chunks, row_states, seed=(seed + (1 << 63)) % (1 << 64) - (1 << 63))

    def _check_history(self, history: Sequence[SpeechSegment]) -> None:
        codebooks, vocab = self._eos_frame.shape[1], self._runner.model.sampled_vocab
        for segment in history:
            codes = segment.codes
            if codes.ndim != 2 or codes.shape[1] != codebooks or (codes < 0).any() or (codes >= vocab).any():
                raise InvalidRequest(
                    f"history must hold codes of this engine, (frames, {codebooks}) from 0 to {vocab - 1}; "
                    f"found {codes.shape}"
                )

    def _voice_positions(self, request: SpeechRequest) -> int:
        if request.voice is None:
            return 0
        frames = frame_count(request.voice.samples.size, request.voice.sample_rate)
        return len(self._transcript_tokens(request, with_text=True)) + frames + 1

    def _transcript_tokens(self, request: SpeechRequest, with_text: bool) -> list[int]:
        assert request.voice is not None
        return self._tokenizer.encode(request.voice.transcript if with_text else "", _speaker(request))

    # ---- the engine thread

    def request_voice_codes(self, state: RequestState) -> None:
        """Start encoding the voice's recording, unless its keys and values or its codes are cached."""
        voice = state.request.voice
        if voice is None or state.encoding is not None:
            return
        if all(row_state.voice in self.voice_cache for row_state in state.row_states):
            return
        if (codes := self.voice_cache.codes(voice.key)) is not None:
            state.encoding = Encoding(voice, codes)
        else:
            state.encoding = self._encoder.encode(voice, state.queue)

    def cache_voice_codes(self) -> None:
        """Put the codes that the encoder has finished into the cache."""
        for encoding in self._encoder.take_finished():
            if encoding.codes is not None:
                self.voice_cache.put_codes(encoding.voice.key, encoding.codes)

    def _reset_rows(self, state: RequestState) -> None:
        """Set the rows' sampling parameters and reset their codec state."""
        request, rows = state.request, state.rows
        params = SamplingParams(
            seed=state.seed,
            temperature_first=request.temperature * (0.5 + request.exaggeration),
            temperature=request.temperature,
            top_k=request.top_k,
        )
        if len(rows) == 1:
            self._runner.reset_row(rows[0], params)
        else:  # row 0 samples for both; row 1 gives the logits without the text
            self._runner.reset_row(rows[0], replace(params, guidance=request.guidance, unconditional=rows[1]))
            self._runner.reset_row(rows[1], replace(params, sampler=rows[0]))

    def _build_prompt(self, state: RequestState) -> None:
        """Reset the rows and queue their prefills: voice, conversation history, first text chunk."""
        request = state.request
        self._reset_rows(state)
        self._runner.assign_stream(state.rows)
        for row_state, row in zip(state.row_states, state.rows, strict=True):
            row_state.context = Context(self.max_positions, self._add_voice(state, row_state, row), self._eos_frame)
            for segment in request.history:
                tokens = self._tokenizer.encode(segment.text if row_state.with_text else "", segment.speaker)
                row_state.context.add_segment(tokens, segment.codes)
        state.encoding = None
        self._queue_chunk(state)

    def _add_voice(self, state: RequestState, row_state: RowState, row: int) -> int:
        """Restore the voice's keys and values from the cache, or queue its prefill. Returns its number of positions."""
        if row_state.voice is None:
            return 0
        cached = self.voice_cache.get(row_state.voice)
        if cached is not None:
            self._runner.restore_kv(row, cached.kv)
            return cached.length
        assert state.encoding is not None
        transcript = self._transcript_tokens(state.request, row_state.with_text)
        spans: list[Span] = [transcript, state.encoding.result(), self._eos_frame]
        row_state.pending.append(Prefill(0, spans))
        row_state.prefills_voice = True
        return sum(map(len, spans))

    def _queue_chunk(self, state: RequestState) -> None:
        """Queue the prefill of the current text chunk, and have the next one planned."""
        independent = state.request.overlap == "zero" and state.chunks.index > 0
        for row_state, row in zip(state.row_states, state.rows, strict=True):
            assert row_state.context is not None
            if independent:
                row_state.context.reset()
                self._runner.reset_codec(row)
            row_state.pending.append(row_state.context.begin_chunk(row_state.prompt_of(state.chunks.current)))
            row_state.started = False
        state.chunks.plan_next(self._planner, self._on_planned)

    def take(self, state: RequestState, budget: int) -> list[PromptPiece]:
        """Take at most `budget` positions of the request's prompt, to be prefilled at once; builds the prompt first.

        Without budget no prompt is built either: it would occupy memory and time before its turn.
        """
        if state.row_states[0].context is None:
            if budget <= 0:
                return []
            self.request_voice_codes(state)  # again: what was cached at its arrival may have been evicted
            if state.waiting_for_voice:
                return []
            self._build_prompt(state)
        elif state.chunk_ended:
            if state.waiting_for_text:
                return []
            state.begin_next_chunk()
            if state.speech_ended:
                return []
            self._queue_chunk(state)
        pieces: list[PromptPiece] = []
        for row_state, row in zip(state.row_states, state.rows, strict=True):
            for prefill in take(row_state.pending, budget):
                pieces.append(PromptPiece(row, prefill))
                budget -= prefill.length
        return pieces

    def prefill(self, pieces: Sequence[PromptPiece]) -> None:
        """Launch the prefill of the pieces of any requests, packed."""
        if pieces:
            self._runner.prefill(pieces)

    def start_prefilled(self, state: RequestState) -> None:
        """Let the rows decode whose prompts are launched completely. The request is ready once all its rows are."""
        for row_state, row in zip(state.row_states, state.rows, strict=True):
            if row_state.context is not None and not row_state.pending and not row_state.started:
                self._cache_voice(row_state, row)
                self._runner.start_row(row, row_state.context.position)
                row_state.started = True
        state.ready = all(row_state.started for row_state in state.row_states)
        if state.ready and state.queue.prefilled_at is None:
            state.queue.prefilled_at = time.monotonic()

    def _cache_voice(self, row_state: RowState, row: int) -> None:
        if row_state.prefills_voice:
            assert row_state.voice is not None
            assert row_state.context is not None
            length = row_state.context.voice_length
            self.voice_cache.put(row_state.voice, CachedVoice(length, self._runner.copy_kv(row, length)))
            row_state.prefills_voice = False


def _voice_key(request: SpeechRequest, with_text: bool) -> VoiceKey | None:
    """The cache key of the voice. It hashes all samples, which takes long: call it on the caller's thread."""
    return None if request.voice is None else VoiceKey(request.voice.key, _speaker(request), with_text)


def _speaker(request: SpeechRequest) -> int:
    """The speaker id of the voice's segment in the prompt."""
    assert request.voice is not None
    return request.speaker if request.voice.speaker is None else request.voice.speaker
