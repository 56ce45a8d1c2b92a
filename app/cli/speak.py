"""csm-serve speak: a text becomes a file, a stream, or sound."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from engine import SAMPLE_RATE

from ..audio.encoders.base import Samples
from ..audio.encoders.formats import FORMATS
from ..audio.encoders.pcm import FULL_SCALE
from ..client import CsmClient, SpeechOptions, SpeechStream, StreamCut
from . import connection
from .audio_sink import STDOUT, AudioSink, opened
from .exit_status import EXIT_HELP, CommandFailed, ExitStatus, one_line
from .progress import Progress
from .text_stream import read_pieces, utterances

_EXAMPLES = f"""examples:
  csm-serve speak "Hello there."                         to the loudspeaker
  csm-serve speak "Hello there." --voice amy.wav -o hello.mp3
  llm "Tell me a story" | csm-serve speak --voice amy.wav
  csm-serve speak -o - < chapter.txt | ffmpeg -i - chapter.m4b

A text that is piped in is spoken while it is still being written, sentence by sentence; typed in, line by line.

{EXIT_HELP}"""

_TUNING: tuple[tuple[str, type, str], ...] = (  # the service's own names
    ("synthesis_temperature", float, "0 (greedy) to 2"),
    ("top_k", int, "1 to 2051"),
    ("cfg_guidance_weight", float, "classifier-free guidance, 0 (off) to 3; above 0 it takes two slots"),
    ("voice_exaggeration_factor", float, "expressiveness, 0 to 1; 0.5 is neutral"),
    ("text_processing_chunk_size", int, "most characters in one breath, 20 to 1000"),
    ("audio_tokens_per_slice", int, "frames of 80 ms in a piece of the stream, 1 to 125"),
    ("remove_leading_milliseconds", int, "cut from the start"),
    ("remove_trailing_milliseconds", int, "cut from the end"),
    ("chunk_overlap_method", str, "full or zero: whether voice and codec run on through a long text"),
    ("crossfade_duration_milliseconds", int, "where parts of a long text meet, 0 to 500"),
    ("max_audio_length_ms", int, "a hard end, 80 to 600000"),
    ("seed", int, "the same seed, text and voice give the same audio"),
)


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "speak",
        usage="csm-serve speak [TEXT ...] [--voice ID] [-o FILE] [options]",
        help="say a text, through a service that runs",
        description="Say a text, through a service that runs: to the loudspeaker, or into a file or a pipe.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help="what to say; - or nothing reads stdin")
    parser.add_argument("--voice", metavar="ID", help="one of `csm-serve voices list`, or speaker_0, speaker_1, …")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write there instead of playing; - is stdout. It is there once whole"
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), help="of the file; else its extension says it, and on stdout it is wav"
    )
    tuning = parser.add_argument_group("how to say it (what is left out is as the service is set)")
    for name, kind, meaning in _TUNING:
        tuning.add_argument(
            f"--{name.replace('_', '-')}", type=kind, metavar="N" if kind is not str else "HOW", help=meaning
        )
    connection.add_options(parser)
    parser.set_defaults(command=speak)


def speak(parsed: argparse.Namespace) -> None:
    """Say what the arguments or stdin hold, to where they tell."""
    texts = _texts(parsed.text)
    with connection.client_of(parsed) as client, opened(parsed.output, parsed.format) as outlet:
        _Speaking(client, outlet, parsed).say(texts)


def _texts(words: list[str]) -> Iterable[str]:
    if words and words != ["-"]:
        return [" ".join(words)]
    if sys.stdin is None or (sys.stdin.isatty() and not words):
        raise CommandFailed('what shall be said? csm-serve speak "Hello there.", or pipe a text in', ExitStatus.USAGE)
    return utterances(read_pieces(sys.stdin.fileno()), lines=sys.stdin.isatty())


class _Speaking:
    """Says texts one after the other into one outlet: as samples, so that they become one file with one header."""

    def __init__(self, client: CsmClient, outlet: AudioSink, parsed: argparse.Namespace) -> None:
        self._client = client
        self._outlet = outlet
        self._encoder = FORMATS[outlet.format].create_encoder()
        self._voice: str | None = parsed.voice
        given = {name: getattr(parsed, name) for name, _, _ in _TUNING}
        self._options = cast(SpeechOptions, {name: value for name, value in given.items() if value is not None})
        self._target: str | None = parsed.output
        self._progress = Progress(sys.stderr)
        self._samples = 0
        self._first: float | None = None
        self._engine = ""

    def say(self, texts: Iterable[str]) -> None:
        began = time.monotonic()
        try:
            for text in texts:
                if self._first is None:
                    self._progress.show("waiting for the first audio …")
                self._say(text)
            if self._first is None:
                raise CommandFailed("there was nothing to say: the text is empty", ExitStatus.USAGE)
            self._outlet.write(self._encoder.flush())
        except BaseException:
            self._progress.clear()
            raise
        self._progress.end(self._summary(time.monotonic() - began))

    def _say(self, text: str) -> None:
        with self._client.stream(text, voice_id=self._voice, format="raw_pcm", **self._options) as speech:
            self._engine = speech.head.engine
            for samples in _samples(speech):
                if self._first is None:
                    self._first = speech.first_audio_seconds
                self._outlet.write(self._encoder.encode(samples))
                self._samples += samples.size
                self._progress.show(self._account())

    def _account(self) -> str:
        first = "" if self._first is None else f", first audio after {self._first:.2f} s"
        return f"{self._samples / SAMPLE_RATE:.1f} s of speech{first}"

    def _summary(self, seconds: float) -> str:
        where = "" if self._target in (None, STDOUT) else f"{one_line(str(self._target))}: "
        speed = f", {self._samples / SAMPLE_RATE / seconds:.1f} times as fast as it plays" if where else ""
        by = (
            " (by espeak-ng, which stands in until the service has CSM's weights)"
            if self._engine == "espeak-ng"
            else ""
        )
        return f"{where}{self._account()}{speed}{by}"


def _samples(speech: SpeechStream) -> Iterator[Samples]:
    """float32 (samples,) out of bytes that may end anywhere. Raises StreamCut if the last sample is half one."""
    odd = b""
    for data in speech:
        came = odd + data
        whole = len(came) - len(came) % 2
        odd = came[whole:]
        yield np.frombuffer(came[:whole], "<i2").astype(np.float32) / np.float32(FULL_SCALE)
    if odd:
        raise StreamCut("the stream ended in the middle of a sample")
