"""The state of one request: its text chunks, its rows, its frames, and the slices it emits. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .chunk_plan import ChunkPlan
from .context import Context, Prefill, TextChunk, Tokens
from .slice_policy import SlicePolicy
from .stream import AudioQueue
from .timing import TextTiming
from .types import FRAME_MILLISECONDS, FRAME_SAMPLES, AudioChunk, Codes, Samples, SpeechRequest, VoicePrompt
from .voice_cache import VoiceKeys
from .voice_encoder import Encoding


@dataclass
class RowState:
    """The prompt of one row. A request has one row, or under guidance two: one with the text, one without."""

    no_text: Callable[[int], Tokens] | None = None  # a part's prompt without text, for the unconditional row
    voices: VoiceKeys = ()
    context: Context | None = None  # created when the prompt is built
    pending: list[Prefill] = field(default_factory=list)  # spans to prefill before the row can decode
    started: bool = False  # all prefills are launched
    prefills_voices: bool = False  # of the voices any is among `pending`; all are cached once it is prefilled

    @property
    def with_text(self) -> bool:
        return self.no_text is None

    def prompt_of(self, chunk: TextChunk) -> TextChunk:
        """The chunk as this row is prompted with it."""
        return chunk if self.no_text is None else TextChunk("", self.no_text(chunk.part), chunk.max_frames)


@dataclass(eq=False)
class RequestState:
    """A request with its state. The scheduler assigns `rows`, one for each of `row_states`."""

    request: SpeechRequest
    queue: AudioQueue
    chunks: ChunkPlan
    row_states: list[RowState]
    voices: Sequence[tuple[VoicePrompt, int]]  # SpeechRequest.voices, which takes long to find
    seed: int
    encodings: dict[str, Encoding] = field(default_factory=dict)  # by VoicePrompt.key, until they are prefilled
    rows: list[int] = field(default_factory=list)
    chunk_ended: bool = False  # the current text chunk; the next one, if there is one, has not begun
    begins_turn: bool = False  # the current text chunk is the first of a dialogue's turn, but not of the first
    speech_ended: bool = False
    frames: int = 0  # emitted so far, in all text chunks
    ready: bool = False  # prefilled: its rows can decode
    _chunk_codes: list[Codes] = field(default_factory=list)  # of the current text chunk, one (codebooks,) a frame
    _slice_samples: list[Samples] = field(default_factory=list)
    _slice_policy: SlicePolicy = field(init=False)
    _frames_left: int = field(init=False)  # that the current text chunk may still take
    _pause_before: int = field(init=False)  # samples of silence before the next slice

    def __post_init__(self) -> None:
        queue = self.queue
        self._slice_policy = SlicePolicy(
            self.request.first_slice_frames, self.request.slice_frames, audio=lambda: queue.audio_seconds
        )
        self._frames_left = self._chunk_limit()
        self._pause_before = self.chunks.current.pause_before

    @property
    def rows_needed(self) -> int:
        return len(self.row_states)

    @property
    def waiting_for_voice(self) -> bool:
        """A voice of it is being encoded; there is nothing else to do for it until then."""
        return bool(self.encodings) and not all(encoding.done for encoding in self.encodings.values())

    @property
    def waiting_for_text(self) -> bool:
        """Its next text chunk is being planned, or not even written yet."""
        return self.chunk_ended and not self.speech_ended and not self.chunks.next_planned

    @property
    def at_end_of_written_text(self) -> bool:
        """The next text chunk begins a part that may have been written only while this one was spoken."""
        return self.request.more is not None and self.chunks.current.ends_part

    @property
    def runnable(self) -> bool:
        """It takes part in the next step: it is prefilled and its reader is not behind."""
        return self.ready and not self.queue.full

    def add_frame(self, codes: Codes, samples: Samples) -> None:
        """Add one frame, codes (codebooks,) and samples (1920,), and emit the slice if it is full."""
        self._chunk_codes.append(codes)
        self._slice_samples.append(samples)
        self.frames += 1
        self._frames_left -= 1
        if len(self._slice_samples) >= self._slice_policy.size and self._frames_left > 0:
            self._slice_policy.emitting()
            self._emit()

    @property
    def surplus_seconds(self) -> float:
        """Of audio that the listener is given beyond that of the frames; less than 0 where turns overlap."""
        return self.queue.audio_seconds - (self.frames - len(self._slice_samples)) * FRAME_MILLISECONDS / 1000

    @property
    def at_chunk_limit(self) -> bool:
        """The text chunk, or the whole request, has reached its limit of frames."""
        return self._frames_left <= 0

    def _chunk_limit(self) -> int:
        """Frames that the current text chunk may take, before its first."""
        limit = self.chunks.current.max_frames
        return limit if self.request.max_frames is None else min(limit, self.request.max_frames - self.frames)

    @property
    def at_max_frames(self) -> bool:
        return self.request.max_frames is not None and self.frames >= self.request.max_frames

    def finish_chunk(self, stopped: bool) -> None:
        """End the text chunk, by the model's stop frame (`stopped`) or at its limit, and emit the last slice."""
        count = len(self._chunk_codes)
        codes = self._codes(count)
        last = self.chunks.current.is_last or self.at_max_frames
        self._slice_policy.ending_chunk()
        self._emit(ends_text_chunk=True, ends_speech=last)
        for row_state in self.row_states:
            assert row_state.context is not None
            # each step feeds the frame before it: the stop step has fed the last frame, at a limit it is not fed yet
            row_state.context.finish_chunk(codes, fed=count if stopped else count - 1)
        self._chunk_codes, self.ready = [], False
        self.chunk_ended, self.speech_ended = True, last

    def begin_next_chunk(self) -> None:
        """Go to the next text chunk, which is planned, or end the speech if none follows.

        Raises what its planning raised: PromptTooLong, and for a part that was written meanwhile any InvalidRequest.
        """
        waited, ended_turn = self.at_end_of_written_text, self.chunks.current.ends_turn
        self.chunks.advance()
        if waited:
            self._slice_policy.text_came()
        self.begins_turn = ended_turn
        self._pause_before = self.chunks.current.pause_before
        if not self.chunks.current.text:  # the end of a text that was written while it was spoken
            self._emit(ends_text_chunk=True, ends_speech=True)
            self.speech_ended = True
            return
        self.chunk_ended = False
        self._frames_left = self._chunk_limit()

    def _emit(self, ends_text_chunk: bool = False, ends_speech: bool = False) -> None:
        count = len(self._slice_samples)
        samples = np.concatenate(self._slice_samples) if count else np.zeros(0, np.float32)
        self._slice_samples = []
        self.queue.put(
            AudioChunk(
                samples=samples,
                codes=self._codes(count),
                text_chunk=self.chunks.index,
                in_last_text_chunk=self.chunks.current.is_last,
                ends_text_chunk=ends_text_chunk,
                ends_speech=ends_speech,
                pause_before=self._pause_before,
                pause_after=self.chunks.current.pause_after if ends_text_chunk else 0,
                timings=self._timings() if ends_text_chunk and self.request.timestamps else (),
                text_part=self.chunks.current.part,
                ends_text_part=ends_text_chunk and self.chunks.current.ends_part,
            )
        )
        self._pause_before = 0

    def _timings(self) -> tuple[TextTiming, ...]:
        return (TextTiming(self.chunks.current.words, 0, len(self._chunk_codes) * FRAME_SAMPLES),)

    def _codes(self, count: int) -> Codes:
        """The last `count` frames of the current text chunk, (count, codebooks)."""
        context = self.row_states[0].context
        assert context is not None
        codes: Codes = np.array(self._chunk_codes[len(self._chunk_codes) - count :], dtype=np.int64)
        return codes.reshape(count, context.eos_frame.shape[1])
