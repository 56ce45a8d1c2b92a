"""Builds and prefills each row's prompt: voices, conversation history, text chunk.

Runs on the engine thread, except `plan`, which is pure and runs on the caller's thread. Text chunks after the first are
planned on a thread of their own, while the one before is spoken.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

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
from .types import Codes, SpeechRequest, SpeechSegment, VoicePrompt
from .voice_cache import CachedVoices, VoiceCache, VoiceKey, VoiceKeys
from .voice_encoder import Encoding, VoiceEncoder

Voices = Sequence[tuple[VoicePrompt, int]]  # recordings, each with its segment's speaker id


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
        voices = request.voices
        free = self.max_positions - self._voice_positions(voices) - 2

        def tokenize(text: str, part: int) -> list[int]:
            return self._tokenizer.encode(text, request.turn(part).speaker)

        if request.ignore_stop:
            assert request.max_frames is not None
            text = spoken_text(request.text, normalizes=request.normalize, lexicon=request.lexicon)
            chunks = ChunkPlan(iter([fixed_chunk(text, free, tokenize, request.max_frames)]))
        else:
            growing = request.more is not None
            planned = plan_chunks(request_chunks(request), free, tokenize, growing=growing)
            chunks = ChunkPlan(planned, request.more)
        row_states = [RowState(voices=_voice_keys(voices, with_text=True))]
        if guided:
            row_states.append(RowState(lambda part: tokenize("", part), _voice_keys(voices, with_text=False)))
        seed = random.getrandbits(64) if request.seed is None else request.seed
        return RequestState(request, queue, chunks, row_states, voices, (seed + (1 << 63)) % (1 << 64) - (1 << 63))

    def _check_history(self, history: Sequence[SpeechSegment]) -> None:
        codebooks, vocab = self._eos_frame.shape[1], self._runner.model.sampled_vocab
        for segment in history:
            codes = segment.codes
            if codes.ndim != 2 or codes.shape[1] != codebooks or (codes < 0).any() or (codes >= vocab).any():
                raise InvalidRequest(
                    f"history must hold codes of this engine, (frames, {codebooks}) from 0 to {vocab - 1}; "
                    f"found {codes.shape}"
                )

    def _voice_positions(self, voices: Voices) -> int:
        positions = 0
        for voice, speaker in voices:
            frames = frame_count(voice.samples.size, voice.sample_rate)
            positions += len(self._tokenizer.encode(voice.transcript, speaker)) + frames + 1
        return positions

    # ---- the engine thread

    def request_voice_codes(self, state: RequestState) -> None:
        """Start encoding the voices' recordings, unless their keys and values or their codes are cached."""
        if not state.voices or all(row_state.voices in self.voice_cache for row_state in state.row_states):
            return
        cached = min(self.voice_cache.longest_prefix(row_state.voices)[0] for row_state in state.row_states)
        for voice, _ in state.voices[cached:]:
            if voice.key not in state.encodings:
                state.encodings[voice.key] = self._encoding(voice, state.queue)

    def _encoding(self, voice: VoicePrompt, queue: AudioQueue) -> Encoding:
        codes = self.voice_cache.codes(voice.key)
        return self._encoder.encode(voice, queue) if codes is None else Encoding(voice, codes)

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
        """Reset the rows and queue their prefills: voices, conversation history, first text chunk."""
        request = state.request
        self._reset_rows(state)
        self._runner.assign_stream(state.rows)
        for row_state, row in zip(state.row_states, state.rows, strict=True):
            row_state.context = Context(self.max_positions, self._add_voices(state, row_state, row), self._eos_frame)
            for segment in request.history:
                tokens = self._tokenizer.encode(segment.text if row_state.with_text else "", segment.speaker)
                row_state.context.add_segment(tokens, segment.codes)
        state.encodings = {}
        self._queue_chunk(state)

    def _add_voices(self, state: RequestState, row_state: RowState, row: int) -> int:
        """Restore the voices' keys and values as far as they are cached, and queue the prefill of the others.

        Returns their number of positions.
        """
        if not row_state.voices:
            return 0
        restored, cached = self.voice_cache.longest_prefix(row_state.voices)
        if cached is not None:
            self._runner.restore_kv(row, cached.kv)
        length = 0 if cached is None else cached.length
        if restored == len(row_state.voices):
            return length
        spans: list[Span] = []
        for voice, speaker in state.voices[restored:]:
            transcript = self._tokenizer.encode(voice.transcript if row_state.with_text else "", speaker)
            spans += [transcript, state.encodings[voice.key].result(), self._eos_frame]
        row_state.pending.append(Prefill(length, spans))
        row_state.prefills_voices = True
        return length + sum(map(len, spans))

    def _queue_chunk(self, state: RequestState) -> None:
        """Queue the prefill of the current text chunk, and have the next one planned."""
        independent = state.request.overlap == "zero" and state.chunks.index > 0
        for row_state, row in zip(state.row_states, state.rows, strict=True):
            assert row_state.context is not None
            if independent:
                row_state.context.reset()
            if independent or state.begins_turn:  # a turn is not joined to the audio before it
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
                self._cache_voices(row_state, row)
                self._runner.start_row(row, row_state.context.position)
                row_state.started = True
        state.ready = all(row_state.started for row_state in state.row_states)
        if state.ready and state.queue.prefilled_at is None:
            state.queue.prefilled_at = time.monotonic()

    def _cache_voices(self, row_state: RowState, row: int) -> None:
        if row_state.prefills_voices:
            assert row_state.context is not None
            length = row_state.context.voice_length
            self.voice_cache.put(row_state.voices, CachedVoices(length, self._runner.copy_kv(row, length)))
            row_state.prefills_voices = False


def _voice_keys(voices: Voices, with_text: bool) -> VoiceKeys:
    """The cache keys of the voices. It hashes all samples, which takes long: call it on the caller's thread."""
    return tuple(VoiceKey(voice.key, speaker, with_text) for voice, speaker in voices)
