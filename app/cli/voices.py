"""csm-serve voices: what voices a service has, one more, one less."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from . import connection
from .exit_status import EXIT_HELP, CommandFailed, ExitStatus
from .progress import Progress

_EXAMPLES = f"""examples:
  csm-serve voices list --long
  csm-serve voices add amy.wav --transcript "The words that she says in it."
  csm-serve voices add recording-7.wav --name amy.wav --replace
  csm-serve voices remove amy.wav

{EXIT_HELP}"""


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "voices",
        help="list, add and remove voices of a service that runs",
        description="List, add and remove voices of a service that runs.",
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
    adding.add_argument("file", type=Path, metavar="FILE", help="wav, mp3, flac, ogg, opus, m4a or webm")
    adding.add_argument(
        "--transcript", metavar="TEXT", help="the words that are said in it; else what stands in FILE's .txt beside it"
    )
    adding.add_argument("--name", metavar="ID", help="its id; else the name of the file")
    adding.add_argument("--replace", action="store_true", help="let it take the place of the voice of that id")
    adding.set_defaults(command=add_voice)

    removing = verbs.add_parser("remove", help="forget an uploaded voice", description="Forget an uploaded voice.")
    removing.add_argument("name", metavar="NAME", help="its id")
    removing.set_defaults(command=remove_voice)
    for verb in (listing, adding, removing):
        connection.add_options(verb)


def list_voices(parsed: argparse.Namespace) -> None:
    with connection.client_of(parsed) as client:
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
        line.show("decoding …" if done else f"sent {sent / 1e6:.1f} of {size / 1e6:.1f} MB", at_once=done)

    transcript = _transcript_beside(path) if parsed.transcript is None else parsed.transcript
    with connection.client_of(parsed) as client:
        try:
            if parsed.replace:
                name = parsed.name or path.name
                client.replace_voice(name, path, transcript=transcript, progress=progress)
            else:
                name = client.add_voice(path, transcript=transcript, voice_id=parsed.name, progress=progress)
        finally:
            line.clear()
    print(f"{name} is {'another voice now' if parsed.replace else 'there'}: csm-serve speak --voice {name} …")
    if not transcript:
        print("It has no transcript; with the words of the recording it would sound closer to it.", file=sys.stderr)


def remove_voice(parsed: argparse.Namespace) -> None:
    with connection.client_of(parsed) as client:
        client.delete_voice(parsed.name)
    print(f"{parsed.name} is gone.")


def _transcript_beside(recording: Path) -> str:
    """What stands in NAME.txt beside NAME.wav, as the folder of the service has it; empty if there is none."""
    try:
        return recording.with_suffix(".txt").read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise CommandFailed(
            f"{recording.with_suffix('.txt')} is not UTF-8 ({error.reason})", ExitStatus.USAGE
        ) from None
