"""csm-serve talk: a spoken conversation through microphone and loudspeaker."""

from __future__ import annotations

import argparse
import queue
import sys
import threading
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, cast

from csm_serve_client import (
    AudioCommitted,
    AudioDelta,
    Conversation,
    ConversationEvent,
    ConversationOptions,
    CsmError,
    ErrorReceived,
    ResponseCreated,
    ResponseDone,
    SessionChanged,
    SpeechStarted,
    TranscriptDelta,
    UserTranscript,
)

from . import connection
from .exit_status import EXIT_HELP, CommandFailed, ExitStatus, one_line
from .playback import Playback
from .recorded_device import recorded_headset
from .sound_device import headset

_TRAILING_BYTES = 48_000  # of silence after a recording, so that the service finds the end of its last turn


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "talk",
        help="talk with the assistant of a running service",
        description="Talk with the assistant of a running service through microphone and loudspeaker. Speak to "
        "interrupt it; Ctrl-C ends. It needs the Python package sounddevice. A headset keeps its voice out of the "
        "microphone.",
        epilog=EXIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--voice", metavar="ID", help="one of `csm-serve voices list`, or speaker_0, speaker_1, …")
    parser.add_argument("--instructions", metavar="TEXT", help="what the language model is to be")
    parser.add_argument("--language", metavar="CODE", help="what you speak, such as en")
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help="a wav file (16 bits, mono, 24 kHz) in place of the microphone"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="with --input: a wav file in place of the loudspeaker"
    )
    connection.add_options(parser)
    parser.set_defaults(command=talk)


def talk(parsed: argparse.Namespace) -> None:
    """Talk until Ctrl-C, or until a recording's last turn is answered."""
    if parsed.output is not None and parsed.input is None:
        raise CommandFailed("--output applies to a recording: name it with --input", ExitStatus.USAGE)
    options = {"voice_id": parsed.voice, "instructions": parsed.instructions, "language": parsed.language}
    given = {name: value for name, value in options.items() if value is not None}
    with (
        connection.make_client(parsed) as client,
        client.converse(**cast(ConversationOptions, given)) as conversation,
    ):
        if note := conversation.session.get("csm", {}).get("note"):
            print(one_line(str(note)), file=sys.stderr)
        _Talk(conversation).run(parsed.input, parsed.output)


class _Talk:
    """The microphone's thread puts audio into a queue, one sends it, and the caller's reads events."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._playback = Playback()
        self._heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None: a recording has ended
        self._input_over = False  # the service has taken the whole recording
        self._turn_waits = False  # for its answer to begin
        self._answering = False
        self._failure: CsmError | None = None
        self._captioned = ""  # whose words stand in the current line

    def run(self, source: Path | None, target: Path | None) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._device(source, target))
            sender = threading.Thread(target=self._send_audio, daemon=True)
            sender.start()
            try:
                for event in self._conversation:
                    self._take(event)
                    if self._input_over and not self._turn_waits and not self._answering:
                        self._playback.wait()
                        break
            finally:
                self._conversation.close()
                self._heard.put(b"")  # wakes the sender, which finds the conversation closed
                sender.join()
                self._caption("", "")
        if self._failure is not None:
            raise CommandFailed("not every turn was answered", ExitStatus.REFUSED)

    def _device(self, source: Path | None, target: Path | None) -> AbstractContextManager[None]:
        if source is None:
            print("Speak; Ctrl-C ends.", file=sys.stderr)
            return headset(self._playback, self._heard.put)
        return recorded_headset(source, target, self._playback, self._heard.put, lambda: self._heard.put(None))

    def _send_audio(self) -> None:
        silence = None  # bytes of it since the recording's end
        try:
            while True:
                audio = self._heard.get()
                if audio is None:
                    silence = 0
                    continue
                self._conversation.send_audio(audio)
                if silence is not None:
                    silence += len(audio)
                    if silence >= _TRAILING_BYTES:
                        self._conversation.update()  # its answer comes after all that the audio caused
                        silence = None
        except CsmError:  # who reads the conversation is told
            pass

    def _take(self, event: ConversationEvent) -> None:
        match event:
            case SpeechStarted():
                for item_id, heard_ms in self._playback.stop().items():
                    self._conversation.truncate(item_id, heard_ms)
            case AudioDelta():
                self._playback.add(event.item_id, event.audio)
            case TranscriptDelta():
                self._caption("Assistant", event.delta)
            case UserTranscript():
                self._caption("You", event.transcript, whole=True)
            case AudioCommitted():
                self._turn_waits = True
            case ResponseCreated():
                self._turn_waits, self._answering = False, True
            case ResponseDone():
                self._answering = False
                if event.error is not None:
                    self._complain(event.error)
            case ErrorReceived():  # perhaps of the turn
                self._turn_waits = False
                self._complain(event.error)
            case SessionChanged():
                self._input_over = True

    def _caption(self, who: str, words: str, *, whole: bool = False) -> None:
        """Write words of one side, on a new line where the other was last."""
        if whole or who != self._captioned:
            sys.stdout.write("\n" if self._captioned else "")
            sys.stdout.write(f"{who}: " if who else "")
        self._captioned = who
        sys.stdout.write("".join(each for each in words if each.isprintable()))
        sys.stdout.flush()

    def _complain(self, error: CsmError) -> None:
        self._caption("", "")
        print(one_line(str(error)), file=sys.stderr)
        self._failure = self._failure or error
