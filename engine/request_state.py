"""One request on its way: its chunks of text, its rows, the frames it has and the slices it gives out. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .context import Context, Prefill, TextChunk
from .slice_policy import SlicePolicy
from .stream import AudioQueue
from .types import AudioChunk, Codes, Samples, SpeechRequest
from .voice_cache import VoiceKey
from .voice_encoder import Encoding


@dataclass
class RowState:
    """What one row of an state reads. Under guidance there are two: one with the text, one without."""

    with_text: bool  # False: reads the prompt without its text
    chunks: list[TextChunk]
    voice: VoiceKey | None = None
    context: Context | None = None  # known once the voice is
    pending: list[Prefill] = field(default_factory=list)  # what must go into the row before it can speak
    started: bool = False  # all of that is in, or on its way on the row's stream
    prefills_voice: bool = False  # which is to be kept once it is in


@dataclass(eq=False)
class RequestState:
    """A request with its state. `rows` are handed out by the scheduler, one per row_state."""

    request: SpeechRequest
    queue: AudioQueue
    row_states: list[RowState]
    seed: int
    encoding: Encoding | None = None  # of its voice, from when it is asked for until it is read
    rows: list[int] = field(default_factory=list)
    chunk_index: int = 0
    frames: int = 0  # spoken so far, in all chunks
    ready: bool = False  # prefilled: its rows can speak
    _spoken: list[Codes] = field(default_factory=list)  # frames of this text chunk, (codebooks,) each
    _slice: list[Samples] = field(default_factory=list)
    _slices: SlicePolicy = field(init=False)
    _left: int = field(init=False)  # frames that this text chunk may still take

    def __post_init__(self) -> None:
        self._slices = SlicePolicy(self.request.first_slice_frames, self.request.slice_frames)
        self._left = self._bound()

    @property
    def rows_needed(self) -> int:
        return len(self.row_states)

    @property
    def waiting_for_voice(self) -> bool:
        """Its voice is being encoded: until then there is nothing to do for it."""
        return self.encoding is not None and not self.encoding.done

    @property
    def runnable(self) -> bool:
        """It takes part in the next step: prefilled, and its reader is not behind."""
        return self.ready and not self.queue.full

    @property
    def has_more_chunks(self) -> bool:
        return self.chunk_index < len(self.row_states[0].chunks)

    def add_frame(self, codes: Codes, samples: Samples) -> None:
        """Take one frame, codes (codebooks,) and samples (1920,), and give out a slice if it is full."""
        self._spoken.append(codes)
        self._slice.append(samples)
        self.frames += 1
        self._left -= 1
        if len(self._slice) >= self._slices.size and self._left > 0:
            self._emit()
            self._slices.emitted()

    @property
    def at_chunk_limit(self) -> bool:
        """This text chunk, or the whole, may take no more frames."""
        return self._left <= 0

    def _bound(self) -> int:
        """Of a text chunk that has no frames yet."""
        bound = self.row_states[0].chunks[self.chunk_index].max_frames
        return bound if self.request.max_frames is None else min(bound, self.request.max_frames - self.frames)

    @property
    def at_max_frames(self) -> bool:
        return self.request.max_frames is not None and self.frames >= self.request.max_frames

    def finish_chunk(self, stopped: bool) -> None:
        """This text chunk is over, by the model's own word (`stopped`) or by its bound. Gives out what is left."""
        count = len(self._spoken)
        codes = self._codes(count)
        last = self.chunk_index + 1 == len(self.row_states[0].chunks) or self.at_max_frames
        self._emit(ends_text_chunk=True, ends_speech=last)
        for row_state in self.row_states:
            assert row_state.context is not None
            # a frame is fed by the step behind it: the one that said stop fed the last, a bound leaves it unfed
            row_state.context.finish_chunk(codes, fed=count if stopped else count - 1)
        self.chunk_index = len(self.row_states[0].chunks) if last else self.chunk_index + 1
        self._spoken, self.ready = [], False
        if self.has_more_chunks:
            self._left = self._bound()

    def _emit(self, ends_text_chunk: bool = False, ends_speech: bool = False) -> None:
        count = len(self._slice)
        samples = np.concatenate(self._slice) if count else np.zeros(0, np.float32)
        self._slice = []
        self.queue.put(
            AudioChunk(
                samples=samples,
                codes=self._codes(count),
                text_chunk=self.chunk_index,
                in_last_text_chunk=self.chunk_index + 1 == len(self.row_states[0].chunks),
                ends_text_chunk=ends_text_chunk,
                ends_speech=ends_speech,
            )
        )

    def _codes(self, count: int) -> Codes:
        """The last `count` frames of this text chunk, (count, codebooks)."""
        context = self.row_states[0].context
        assert context is not None
        codes: Codes = np.array(self._spoken[len(self._spoken) - count :], dtype=np.int64)
        return codes.reshape(count, context.eos_frame.shape[1])
