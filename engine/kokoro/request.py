"""One request in a slot of Kokoro's engine: text chunks, their phrases, and the phrases' windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from ..fallback.audio_slices import AudioSlicer
from ..fallback.espeak_library import EspeakLibrary
from ..stream import AudioQueue
from ..text import SpokenChunk, request_chunks
from ..text.splitting import best_cut
from ..text_feed import NextPart
from ..timing import Word, share_words
from ..types import SAMPLE_RATE, Samples, SpeechRequest
from .durations import PhraseClock, token_ends
from .model import FRAME_SAMPLES, KokoroModel, Prosody
from .phonemes import Run, places_of, tokens_of, transcribe
from .voices import GAIN, KokoroVoice, VoiceMatcher
from .windows import LEFT_CONTEXT, RIGHT_CONTEXT, WindowJoiner, windows_of

_MAX_CHUNK_CHARACTERS = 150  # of a text chunk, whose prosody is predicted as a whole
_FIRST_CHARACTERS = 60  # of the first phrase: short, for a short wait
_PAUSE_SECONDS = {".": 0.35, "!": 0.35, "?": 0.35, "…": 0.35}  # after a phrase that ends with it
_OTHER_PAUSE_SECONDS = 0.12
_QUOTES = "\"'”’)]»"


class KokoroRequest:
    """Makes audio one window per turn, and puts slices into the queue while it has space.

    The first text chunk is planned here, each other one when it is due. Raises InvalidRequest.
    """

    def __init__(
        self,
        request: SpeechRequest,
        queue: AudioQueue,
        model: KokoroModel,
        library: EspeakLibrary,
        voices: VoiceMatcher,
    ) -> None:
        self.queue = queue
        self._request = request
        self._model = model
        self._library = library
        self._cast = voices.cast(request.turns or (request.turn(0),))
        self._slicer = AudioSlicer(request)
        chunks = self._chunks()
        first = next(chunks)
        self.silence = first.pause_before if not first.text else None  # samples, if the text is nothing but pauses
        self._next_part = NextPart(request.more, queue.on_change)
        self._audio: Iterator[Samples] = self._speech(chain([first], chunks))

    @property
    def due(self) -> float:
        return self._slicer.due

    @property
    def waiting_for_text(self) -> bool:
        """All is emitted that was written."""
        return self._slicer.needs_chunk and self._next_part.missing

    def take_turn(self) -> None:
        self._emit()
        if not (self._next_part.missing or self.queue.full or self.queue.done):
            piece = next(self._audio, None)
            if piece is not None:
                self._slicer.push(piece)
            self._emit()

    def _emit(self) -> None:
        while not self.queue.full and not self.queue.done and (chunk := self._slicer.take()) is not None:
            self.queue.put(chunk)
        if self._slicer.speech_ended:
            self.queue.end()

    def _chunks(self) -> Iterator[SpokenChunk]:
        return request_chunks(self._request, _MAX_CHUNK_CHARACTERS)

    def _speech(self, chunks: Iterator[SpokenChunk]) -> Iterator[Samples]:
        """The audio of all text chunks, window by window. With ignore_stop it starts again while there is any."""
        has_audio, is_first = False, True
        while True:
            for chunk in chunks:
                is_last = chunk.is_last and not self._request.ignore_stop
                self._slicer.begin_chunk(is_last, chunk.pause_before, chunk.part)
                phrases = _phrases(chunk.text) if is_first else [chunk.text]
                words = share_words(chunk.words, phrases)
                voice = self._cast[chunk.part if self._request.turns else 0]
                for index, phrase in enumerate(phrases):
                    for piece in self._phrase(phrase, voice, words[index], is_first and index == 0):
                        has_audio = True
                        yield piece
                    if index < len(phrases) - 1 or not (is_last or chunk.pause_after or chunk.ends_turn):
                        yield _silence(phrase)
                is_first = False
                self._slicer.end_chunk(
                    is_last or (chunk.is_last and not has_audio), chunk.pause_after, ends_part=chunk.ends_part
                )
                if chunk.ends_part and self._request.more is not None:
                    self._next_part.follows(chunk.part)
                yield np.zeros(0, np.float32)  # a turn of its own: the next chunk begins when this one is emitted
            if not self._request.ignore_stop or not has_audio:
                return
            has_audio = False
            chunks = self._chunks()

    def _phrase(self, text: str, voice: KokoroVoice, words: Sequence[Word], starts_speech: bool) -> Iterator[Samples]:
        runs = transcribe(text, self._library)
        pieces = tokens_of(runs)
        for tokens in pieces:
            prosody = self._model.prosody(tokens, voice.mix)
            clock = self._clock(words, runs, prosody, len(tokens)) if words and len(pieces) == 1 else None
            if clock is None and tokens is pieces[0]:
                self._slicer.words.extend(words)  # said somewhere in this text chunk
            joiner = WindowJoiner()
            windows = list(windows_of(prosody.energy, starts_speech and tokens is pieces[0]))
            for window in windows:
                begin = max(window.begin - LEFT_CONTEXT, 0)
                end = min(window.end + RIGHT_CONTEXT, prosody.frames)
                audio = self._model.decode(prosody, begin, end)
                start = (window.begin - begin) * FRAME_SAMPLES
                piece = joiner.push(audio, start, window.end - window.begin)
                if clock is not None:
                    ended = self._slicer.chunk_samples + piece.size
                    self._slicer.words.extend(clock.advance(window, ended, is_last=window is windows[-1]))
                yield np.clip(piece * GAIN, -1.0, 1.0)

    def _clock(self, words: Sequence[Word], runs: list[Run], prosody: Prosody, tokens: int) -> PhraseClock | None:
        """Places the words by Kokoro's durations; None if it is not clear which of its tokens are which word's."""
        ends, places = token_ends(prosody, tokens), places_of(runs, self._library)
        return PhraseClock(words, places, ends) if ends is not None and len(places) == len(words) else None


def _phrases(text: str) -> list[str]:
    """The first phrase of a text, short for a short wait, and the rest."""
    cut = best_cut(text, _FIRST_CHARACTERS) if len(text) > _FIRST_CHARACTERS else len(text)
    return [phrase for phrase in (text[:cut].strip(), text[cut:].strip()) if phrase]


def _silence(phrase: str) -> Samples:
    mark = phrase.rstrip(_QUOTES)[-1:]
    return np.zeros(int(_PAUSE_SECONDS.get(mark, _OTHER_PAUSE_SECONDS) * SAMPLE_RATE), np.float32)
