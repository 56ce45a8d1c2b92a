"""csm-serve speak: generates speech from arguments or stdin to a file, a pipe, or a player."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np
from csm_serve_client import CsmClient, Reference, SpeechOptions, SpeechStream, StreamCut, reference

from engine import SAMPLE_RATE, InvalidRequest

from ..audio.encoders.base import Samples
from ..audio.encoders.formats import FORMATS, format_at
from ..audio.encoders.pcm import FULL_SCALE
from ..errors import ServiceError
from ..lexicon_file import read_lexicon
from ..voices.voice_id import stem_of
from . import connection
from .audio_sink import STDOUT, AudioSink, open_sink
from .dialogue_script import Turn, assign_voices, read_mapping, read_script
from .exit_status import EXIT_HELP, CommandFailed, ExitStatus, one_line
from .progress import Progress
from .subtitle_file import SubtitleFile, open_subtitles, subtitle_path
from .text_stream import read_text, utterances

_FALLBACKS = ("kokoro", "espeak-ng")  # names of engines that speak where CSM's weights are missing
_EXAMPLES = f"""examples:
  csm-serve speak "Hello there."                         to the loudspeaker
  csm-serve speak "Hello there." --voice amy.wav -o hello.mp3
  llm "Tell me a story" | csm-serve speak --voice amy.wav
  csm-serve speak -o - < chapter.txt | ffmpeg -i - chapter.m4b
  csm-serve speak --dialogue play.txt --voice Ann=amy.wav --voice Bob=speaker_1 -o play.mp3
  csm-serve speak -o story.mp3 --subtitles story.srt < story.txt

Piped text is spoken sentence by sentence while it is still being written; typed text, line by line.

{EXIT_HELP}"""


def _switch(value: str) -> bool:
    """The value of an option that is on or off. Raises ArgumentTypeError for anything else."""
    try:
        return {"on": True, "off": False}[value.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"'{value}' is neither on nor off") from None


def _lexicon(path: str) -> dict[str, str]:
    try:
        return read_lexicon(Path(path))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror or error}") from None
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from None


def _reference(path: str) -> Reference:
    try:
        return reference(path)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror or error}") from None


_TUNING: tuple[tuple[str, Callable[[str], object], str], ...] = (  # the service's parameter names
    ("sample_rate", int, "of a file, in Hz: 8000 to 48000; by default 24000, and 8000 for mulaw and alaw"),
    ("synthesis_temperature", float, "0 (greedy) to 2"),
    ("top_k", int, "1 to 2051"),
    ("cfg_guidance_weight", float, "classifier-free guidance, 0 (off) to 3; above 0 it takes two slots"),
    ("voice_exaggeration_factor", float, "expressiveness, 0 to 1; 0.5 is neutral"),
    ("text_processing_chunk_size", int, "maximum characters of a text chunk, 20 to 1000"),
    ("audio_tokens_per_slice", int, "frames of 80 ms in each slice of the stream, 1 to 125"),
    ("remove_leading_milliseconds", int, "trimmed from the start"),
    ("remove_trailing_milliseconds", int, "trimmed from the end"),
    ("chunk_overlap_method", str, "full or zero: whether voice and codec state carry on across text chunks"),
    ("crossfade_duration_milliseconds", int, "crossfade between text chunks, 0 to 500"),
    ("max_audio_length_ms", int, "maximum length of the audio, 80 to 600000; 0 is no limit"),
    ("normalize", _switch, "on or off: whether text is normalised to spoken English first"),
    ("seed", int, "the same seed, text and voice give the same audio"),
)


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "speak",
        usage="csm-serve speak [TEXT ...] [--voice ID] [-o FILE] [options]\n"
        "       csm-serve speak --dialogue FILE --voice Name=ID --voice Name=ID … [-o FILE] [options]",
        help="generate speech with a running service",
        description="Generate speech with a running service, to the loudspeaker, a file or a pipe.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help="the text to speak; - or nothing reads stdin")
    parser.add_argument(
        "--voice",
        action="append",
        default=[],
        metavar="ID",
        help="one of `csm-serve voices list`, or speaker_0, speaker_1, …; with --dialogue Name=ID, for each name",
    )
    parser.add_argument(
        "--dialogue",
        metavar="FILE",
        help="speak the lines `Name: line` of a script, each in its voice, in one context; - is stdin",
    )
    parser.add_argument(
        "--gap-ms",
        type=int,
        metavar="N",
        help="between two turns of the dialogue, -5000 to 10000, by default 200; below 0 they overlap",
    )
    parser.add_argument(
        "--reference",
        type=_reference,
        metavar="FILE",
        help="speak in the voice of this recording or URL, in place of --voice; nothing of it is kept",
    )
    parser.add_argument("--reference-text", metavar="WORDS", default="", help="the words spoken in that recording")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write a file, which appears once complete, instead of playing; - is stdout",
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), help="audio format; by default the file's extension, and wav on stdout"
    )
    parser.add_argument(
        "--subtitles",
        type=subtitle_path,
        metavar="FILE",
        help="also write the subtitles of the speech, as SubRip (.srt) or WebVTT (.vtt), once it is complete",
    )
    tuning = parser.add_argument_group("speech parameters (omitted ones have the service's defaults)")
    for name, kind, meaning in _TUNING:
        tuning.add_argument(
            f"--{name.replace('_', '-')}", type=kind, metavar="N" if kind in (int, float) else "HOW", help=meaning
        )
    tuning.add_argument(
        "--lexicon",
        type=_lexicon,
        metavar="FILE",
        help="words and what is said instead: word = replacement on each line",
    )
    connection.add_options(parser)
    parser.set_defaults(command=speak)


def speak(parsed: argparse.Namespace) -> None:
    """Speak the text of the arguments or of stdin, or a dialogue."""
    script = None if parsed.dialogue is None else _script(parsed)
    texts = [] if script is not None else _texts(parsed.text)
    with (
        connection.make_client(parsed) as client,
        open_sink(parsed.output, parsed.format, parsed.sample_rate) as sink,
        open_subtitles(parsed.subtitles, [stem_of(name) for name, _ in script or ()]) as subtitles,
    ):
        writer = _SpeechWriter(client, sink, subtitles, parsed)
        writer.write(map(writer.open_text, texts) if script is None else [writer.open_dialogue(script)])


def _script(parsed: argparse.Namespace) -> list[Turn]:
    if parsed.text or parsed.reference is not None:
        raise CommandFailed("--dialogue takes its texts from the script: leave TEXT and --reference", ExitStatus.USAGE)
    if parsed.dialogue == STDOUT:
        return read_script("".join(read_text(sys.stdin.fileno())))
    try:
        return read_script(Path(parsed.dialogue).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CommandFailed(f"{parsed.dialogue} cannot be read: {error.strerror or error}", ExitStatus.USAGE) from None
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{parsed.dialogue} is not UTF-8 ({error.reason})", ExitStatus.USAGE) from None


def _texts(words: list[str]) -> Iterable[str]:
    if words and words != ["-"]:
        return [" ".join(words)]
    if sys.stdin is None or (sys.stdin.isatty() and not words):
        raise CommandFailed('no text: csm-serve speak "Hello there.", or pipe a text to stdin', ExitStatus.USAGE)
    return utterances(read_text(sys.stdin.fileno()), lines=sys.stdin.isatty())


class _SpeechWriter:
    """Writes the speech of successive texts to one sink. Encodes raw samples, so that the output has one header."""

    def __init__(
        self, client: CsmClient, sink: AudioSink, subtitles: SubtitleFile | None, parsed: argparse.Namespace
    ) -> None:
        self._client = client
        self._sink = sink
        self._subtitles = subtitles
        try:
            self._encoder = format_at(sink.format, parsed.sample_rate).create_encoder()
        except ServiceError as error:
            raise CommandFailed(error.detail, ExitStatus.USAGE) from None
        self._voices: list[str] = parsed.voice
        self._gap_ms: int | None = parsed.gap_ms
        names = [name for name, _, _ in _TUNING if name != "sample_rate"]  # resampled here
        given = {name: getattr(parsed, name) for name in (*names, "lexicon")}
        if parsed.reference is not None:
            given["reference"] = parsed.reference | {"transcript": parsed.reference_text}
        self._options = cast(SpeechOptions, {name: value for name, value in given.items() if value is not None})
        self._target: str | None = parsed.output
        self._progress = Progress(sys.stderr)
        self._samples = 0
        self._first_audio_seconds: float | None = None
        self._engine = ""

    def open_text(self, text: str) -> AbstractContextManager[SpeechStream]:
        voice = self._voices[-1] if self._voices else None
        return self._client.stream(
            text, voice_id=voice, format="raw_pcm", timestamps=self._subtitles is not None, **self._options
        )

    def open_dialogue(self, script: list[Turn]) -> AbstractContextManager[SpeechStream]:
        turns = assign_voices(script, read_mapping(self._voices), self._client.voices())
        return self._client.stream_dialogue(
            turns, gap_ms=self._gap_ms, format="raw_pcm", timestamps=self._subtitles is not None, **self._options
        )

    def write(self, speeches: Iterable[AbstractContextManager[SpeechStream]]) -> None:
        began = time.monotonic()
        try:
            for speech in speeches:
                if self._first_audio_seconds is None:
                    self._progress.show("waiting for the first audio …")
                self._write(speech)
            if self._first_audio_seconds is None:
                raise CommandFailed("the text is empty", ExitStatus.USAGE)
            self._sink.write(self._encoder.flush())
        except BaseException:
            self._progress.clear()
            raise
        self._progress.end(self._summary(time.monotonic() - began))

    def _write(self, opened: AbstractContextManager[SpeechStream]) -> None:
        began = self._samples
        with opened as speech:
            self._engine = speech.head.engine
            for samples in _samples(speech):
                if self._first_audio_seconds is None:
                    self._first_audio_seconds = speech.first_audio_seconds
                self._sink.write(self._encoder.encode(samples))
                self._samples += samples.size
                self._progress.show(self._status())
        if self._subtitles is not None:
            self._subtitles.write(speech.marks, began / SAMPLE_RATE)

    def _status(self) -> str:
        seconds = self._first_audio_seconds
        first = "" if seconds is None else f", first audio after {seconds:.2f} s"
        return f"{self._samples / SAMPLE_RATE:.1f} s of speech{first}"

    def _summary(self, seconds: float) -> str:
        where = "" if self._target in (None, STDOUT) else f"{one_line(str(self._target))}: "
        speed = f", {self._samples / SAMPLE_RATE / seconds:.1f} times real time" if where else ""
        fallback = f" (fallback {self._engine}: the service has no CSM weights)" if self._engine in _FALLBACKS else ""
        return f"{where}{self._status()}{speed}{fallback}"


def _samples(speech: SpeechStream) -> Iterator[Samples]:
    """float32 (samples,) from chunks that may split a sample. Raises StreamCut if the last sample is incomplete."""
    remainder = b""
    for data in speech:
        buffered = remainder + data
        size = len(buffered) - len(buffered) % 2
        remainder = buffered[size:]
        yield np.frombuffer(buffered[:size], "<i2").astype(np.float32) / np.float32(FULL_SCALE)
    if remainder:
        raise StreamCut("the stream ended in the middle of a sample")
