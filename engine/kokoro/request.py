"""One request in a slot of Kokoro's engine: text chunks, their phrases, and the phrases' windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..fallback.espeak_library import EspeakLibrary
from ..fallback.sliced_request import SlicedRequest
from ..stream import AudioQueue
from ..text.splitting import best_cut
from ..timing import Word, share_words
from ..types import SAMPLE_RATE, Samples, SpeechRequest
from .durations import PhraseClock, token_ends
from .model import FRAME_SAMPLES, KokoroModel, Prosody
from .phonemes import Run, places_of, tokens_of, transcribe
from .voices import GAIN, KokoroVoice, VoiceMatcher
from .windows import LEFT_CONTEXT, RIGHT_CONTEXT, WindowJoiner, windows_of

_FIRST_CHARACTERS = 60  # of the first phrase: short, for a short wait
_PAUSE_SECONDS = {".": 0.35, "!": 0.35, "?": 0.35, "…": 0.35}  # after a phrase that ends with it
_OTHER_PAUSE_SECONDS = 0.12
_QUOTES = "\"'”’)]»"


class KokoroRequest(SlicedRequest):
    """Makes audio one window per turn."""

    def __init__(
        self,
        request: SpeechRequest,
        queue: AudioQueue,
        model: KokoroModel,
        library: EspeakLibrary,
        voices: VoiceMatcher,
    ) -> None:
        """Raises InvalidRequest."""
        super().__init__(request, queue)
        self._model = model
        self._library = library
        self._cast = voices.cast(request.turns or (request.turn(0),))
        self._audio = self._speech()

    def synthesize(self) -> None:
        self.push(next(self._audio))

    def _speech(self) -> Iterator[Samples]:
        """The audio of all text chunks, window by window, and nothing after each of them."""
        is_first = True
        for chunk in self.chunks:
            self.begin_chunk(chunk)
            phrases = _phrases(chunk.text) if is_first else [chunk.text]
            words = share_words(chunk.words, phrases)
            voice = self._cast[chunk.part if self.request.turns else 0]
            for index, phrase in enumerate(phrases):
                yield from self._phrase(phrase, voice, words[index], is_first and index == 0)
                if index < len(phrases) - 1 or self.pauses_after(chunk):
                    yield _silence(phrase)
            is_first = False
            self.end_chunk(chunk)
            yield np.zeros(0, np.float32)  # a turn of its own: the next chunk begins when this one is emitted

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
