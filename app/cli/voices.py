"""csm-serve voices: lists, adds and removes the voices of a service."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from . import connection
from .exit_status import EXIT_HELP, CommandFailed, ExitStatus
from .progress import Progress

_EXAMPLES = f"""examples:
  csm-serve voices list --long
  csm-serve voices add amy.wav --transcript "The words spoken in the recording."
  csm-serve voices add recording-7.wav --name amy.wav --replace
  csm-serve voices remove amy.wav

{EXIT_HELP}"""


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "voices",
        help="list, add and remove voices of a running service",
        description="List, add and remove voices of a running service.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    listing = verbs.add_parser("list", help="the ids of all voices", description="Print the ids of all voices.")
    listing.add_argument("-l", "--long", action="store_true", help="with seconds, transcript, origin and date")
    listing.set_defaults(command=list_voices)

    adding = verbs.add_parser(
        "add",
        help="upload a recording",
        description="Upload a recording of 1 to 30 seconds as a voice. Clone only voices whose owners agreed to it.",
    )
    adding.add_argument("file", type=Path, metavar="FILE", help="wav, mp3, flac, ogg, opus, m4a, webm, aiff or caf")
    adding.add_argument(
        "--transcript", metavar="TEXT", help="the spoken words; by default the content of FILE's .txt beside it"
    )
    adding.add_argument("--name", metavar="ID", help="its id; by default the name of the file")
    adding.add_argument("--replace", action="store_true", help="replace the voice with that id")
    adding.set_defaults(command=add_voice)

    removing = verbs.add_parser("remove", help="delete an uploaded voice", description="Delete an uploaded voice.")
    removing.add_argument("name", metavar="NAME", help="its id")
    removing.set_defaults(command=remove_voice)
    for verb in (listing, adding, removing):
        connection.add_options(verb)


def list_voices(parsed: argparse.Namespace) -> None:
    with connection.make_client(parsed) as client:
        ids = client.voices()
        width = max(map(len, ids), default=0)
        for voice_id in ids:
            if not parsed.long:
                print(voice_id)
                continue
            voice = client.voice(voice_id)
            words = "transcript" if voice.has_transcript else "no transcript"
            origin = "preloaded" if voice.preloaded else "uploaded"
            print(f"{voice_id:{width}}  {voice.seconds:5.1f} s  {words:13}  {origin:9}  {voice.created}")


def add_voice(parsed: argparse.Namespace) -> None:
    path: Path = parsed.file
    line = Progress(sys.stderr)

    def progress(sent: int, size: int) -> None:
        done = sent >= size
        line.show("decoding …" if done else f"sent {sent / 1e6:.1f} of {size / 1e6:.1f} MB", force=done)

    warnings: list[str] = []
    transcript = _transcript_beside(path) if parsed.transcript is None else parsed.transcript
    with connection.make_client(parsed) as client:
        try:
            if parsed.replace:
                name = parsed.name or path.name
                client.replace_voice(name, path, transcript=transcript, progress=progress, warn=warnings.append)
            else:
                name = client.add_voice(
                    path, transcript=transcript, voice_id=parsed.name, progress=progress, warn=warnings.append
                )
        finally:
            line.clear()
    print(f"{name} was {'replaced' if parsed.replace else 'added'}: csm-serve speak --voice {shlex.quote(name)} …")
    for warning in warnings:
        print(f"The recording: {warning}.", file=sys.stderr)


def remove_voice(parsed: argparse.Namespace) -> None:
    with connection.make_client(parsed) as client:
        client.delete_voice(parsed.name)
    print(f"{parsed.name} was deleted.")


def _transcript_beside(recording: Path) -> str:
    """Content of NAME.txt beside NAME.wav, as in the service's voices directory; empty without one."""
    try:
        return recording.with_suffix(".txt").read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise CommandFailed(
            f"{recording.with_suffix('.txt')} is not UTF-8 ({error.reason})", ExitStatus.USAGE
        ) from None
