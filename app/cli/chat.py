"""csm-serve chat: typed text in, streamed text and speech out."""

from __future__ import annotations

import argparse
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

from csm_serve_client import (
    AudioDelta,
    Conversation,
    ConversationError,
    ConversationOptions,
    CsmClient,
    CsmError,
    ErrorReceived,
    ResponseDone,
    SessionChanged,
    TextDelta,
    TranscriptDelta,
)

from . import connection
from .exit_status import EXIT_HELP, CommandFailed, one_line
from .playback import Playback
from .sound_device import load_sounddevice, loudspeaker
from .wav_file import write_wav

DEFAULT_FOLDER = "csm-chat"
_KEEP_ALIVE_SECONDS = 30.0
_HELP = """/voice NAME  speak in another voice; without a name, list them
/history     show the conversation
/save FILE   write the conversation to a file
/help        this
/quit        leave; so does Ctrl-D. Ctrl-C ends an answer"""


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "chat",
        help="type with the assistant of a running service, and hear it",
        description="Type with the assistant of a running service, and hear it. Each line of stdin is a turn.",
        epilog=f"commands:\n{_HELP}\n\n{EXIT_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--voice", metavar="ID", help="one of `csm-serve voices list`, or speaker_0, speaker_1, …")
    parser.add_argument("--instructions", metavar="TEXT", help="what the language model is to be")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help=f"write each answer's speech to a file there instead of playing it ({DEFAULT_FOLDER} where the Python "
        "package sounddevice is not installed)",
    )
    parser.add_argument("--text-only", action="store_true", help="no speech")
    connection.add_options(parser)
    parser.set_defaults(command=chat)


def chat(parsed: argparse.Namespace) -> None:
    """Hold the conversation until stdin ends."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    playback, folder = Playback(), parsed.output
    with ExitStack() as stack:
        client = stack.enter_context(connection.make_client(parsed))
        options = {"voice_id": parsed.voice, "instructions": parsed.instructions, "speaks": not parsed.text_only}
        given = {name: value for name, value in options.items() if value is not None}
        conversation = stack.enter_context(client.converse(**cast(ConversationOptions, given)))
        if not parsed.text_only and folder is None:
            try:
                load_sounddevice()
            except CommandFailed as missing:
                folder = Path(DEFAULT_FOLDER)
                _note(f"{missing}; until then the speech is written to {folder}/")
            else:
                stack.enter_context(loudspeaker(playback))
        if note := conversation.session.get("csm", {}).get("note"):
            _note(str(note))
        stack.enter_context(_kept_alive(conversation))
        _Chat(client, conversation, playback, folder, interactive).run(_lines(interactive))


@contextmanager
def _kept_alive(conversation: Conversation) -> Iterator[None]:
    """The service ends a conversation in which nothing happens, and people think for longer."""
    ended = threading.Event()

    def keep_alive() -> None:
        try:
            while not ended.wait(_KEEP_ALIVE_SECONDS):
                conversation.clear_audio()
        except CsmError:  # who reads the conversation is told
            pass

    thread = threading.Thread(target=keep_alive, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _lines(interactive: bool) -> Iterator[str]:
    """Lines of stdin; on a terminal with a prompt and, by arrow keys, the lines before."""
    if not interactive:
        yield from sys.stdin
        return
    importlib.import_module("readline")  # makes `input` edit lines
    _note("type, or /help")
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


class _Chat:
    """folder: where each answer's speech is written; None plays it."""

    def __init__(
        self,
        client: CsmClient,
        conversation: Conversation,
        playback: Playback,
        folder: Path | None,
        interactive: bool,
    ) -> None:
        self._client, self._conversation = client, conversation
        self._playback, self._folder, self._interactive = playback, folder, interactive
        self._history: list[tuple[str, str]] = []  # (who, words)

    def run(self, lines: Iterator[str]) -> None:
        for line in map(str.strip, lines):
            self._fall_silent()
            command, _, argument = line.partition(" ")
            if command == "/quit":
                break
            try:
                if command.startswith("/"):
                    self._obey(command, argument.strip())
                elif line:
                    self._say(line)
            except (ConversationError, CommandFailed, OSError) as error:
                if not self._interactive:
                    raise
                _note(str(error))
            if not self._interactive:
                self._playback.wait()

    def _obey(self, command: str, argument: str) -> None:
        if command == "/voice" and argument:
            self._conversation.update(voice_id=argument)
            for event in self._conversation:
                if isinstance(event, ErrorReceived):
                    raise event.error
                if isinstance(event, SessionChanged):
                    return
        elif command == "/voice":
            print("\n".join(map(one_line, self._client.voices())))
        elif command == "/history":
            sys.stdout.write(self._transcript())
        elif command == "/save" and argument:
            Path(argument).expanduser().write_text(self._transcript(), encoding="utf-8")
        elif command == "/help":
            print(_HELP)
        else:
            raise CommandFailed(f"{command} is no command, or lacks a name: /help lists them")

    def _say(self, text: str) -> None:
        """Send a turn, and write and speak its answer. Raises ConversationError if it fails."""
        self._history.append(("You", text))
        message = self._conversation.send_text(text, respond=False)
        answer = self._conversation.respond()
        speech = bytearray()
        failures: list[ConversationError] = []
        done = None
        while done is None:
            try:
                done = self._follow(speech, {message, answer}, failures)
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._conversation.interrupt()
                self._fall_silent()
            if any(each.event_id == answer for each in failures):
                raise failures[0]
        print(flush=True)
        assert done is not None
        if done.text:
            self._history.append(("Assistant", done.text))
        if speech and self._folder is not None:
            self._write_speech(bytes(speech))
        if done.error is not None:
            failures.append(done.error)
        if failures:
            raise failures[0]

    def _follow(self, speech: bytearray, turn: set[str], failures: list[ConversationError]) -> ResponseDone | None:
        """Read an answer to its end. turn: ids of the events that asked for it, whose rejections are collected."""
        for event in self._conversation:
            if isinstance(event, TranscriptDelta | TextDelta):
                sys.stdout.write("".join(each for each in event.delta if each.isprintable() or each == "\n"))
                sys.stdout.flush()
            elif isinstance(event, AudioDelta) and self._folder is None:
                self._playback.add(event.item_id, event.audio)
            elif isinstance(event, AudioDelta):
                speech += event.audio
            elif isinstance(event, ErrorReceived) and event.error.event_id in turn:
                failures.append(event.error)
                return None
            elif isinstance(event, ResponseDone):
                return event
        raise AssertionError("only this side ends the conversation")

    def _fall_silent(self) -> None:
        """Stop playing, and tell the service how much was heard."""
        for item_id, heard_ms in self._playback.stop().items():
            self._conversation.truncate(item_id, heard_ms)

    def _write_speech(self, pcm: bytes) -> None:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        path = next(path for number in count(1) if not (path := self._folder / f"{number:03}.wav").exists())
        write_wav(path, pcm)

    def _transcript(self) -> str:
        return "".join(f"{who}: {one_line(words)}\n" for who, words in self._history)


def _note(text: str) -> None:
    print(one_line(text), file=sys.stderr)
