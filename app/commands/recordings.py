"""csm-serve prepare and csm-serve cut: from recordings to what CSM is taught with."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import EngineConfig, EngineError, load_encoder

from ..settings import DEFAULT_MODEL, SettingsError, load_model_settings
from .outcome import CommandFailed, Exit, one_line
from .progress import Progress

if TYPE_CHECKING:
    from training.dataset_validation import Report
    from training.manifest import Manifest

_BAR = 24  # characters

_LAYOUTS = """layouts of RECORDINGS, one of:
  metadata.csv    a first line file,text,speaker and then a line for each recording; speaker may be left out
  metadata.csv    as LJSpeech has it, id|text|normalized text, with the recordings in wavs/
  metadata.jsonl  {"file": "one.wav", "text": "What is said in it.", "speaker": "anna"} on each line
  NAME.txt        beside each NAME.wav, for a single speaker"""

_PREPARE = f"""{_LAYOUTS}

examples:
  csm-serve prepare recordings --check         lists every problem and changes nothing
  csm-serve prepare recordings prepared        the same, and then makes the codes
Run it again after any change: only what is new is encoded.

exit status:
  0  done; there may have been warnings
  1  there are errors in the recordings, and nothing was made (--leave-out goes on without them)
  2  the command or the settings cannot be used"""

_CUT = f"""A recording that is short enough is copied with its transcript. The pieces of a long one stand in NEW's
metadata.csv with an empty `text`: listen, and write down what is said in each. Where the long recording had a
transcript, it stands beside its first piece, in the column `whole_text`, to be divided among them. Pieces that are
left empty are left out by `csm-serve prepare NEW OUT --leave-out`.

{_LAYOUTS}"""


def add_parsers(commands: Any) -> None:
    prepare: argparse.ArgumentParser = commands.add_parser(
        "prepare",
        usage="csm-serve prepare RECORDINGS (OUT | --check) [options]",
        help="check recordings with transcripts and encode them, to teach CSM with",
        description="Check a folder of recordings with transcripts, and encode them with the model's codec into OUT.",
        epilog=_PREPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prepare.add_argument("recordings", type=Path, metavar="RECORDINGS", help="a folder")
    prepare.add_argument("out", type=Path, nargs="?", metavar="OUT", help="the folder for the codes")
    prepare.add_argument("--check", action="store_true", help="only list what is wrong")
    prepare.add_argument("--leave-out", action="store_true", help="go on without the recordings that have errors")
    prepare.add_argument(
        "--max-seconds", type=float, default=30.0, metavar="N", help="longer recordings are errors (default: 30)"
    )
    prepare.add_argument("--model", metavar="PATH", help=f"whose codec to use; else MODEL_PATH, else {DEFAULT_MODEL}")
    prepare.set_defaults(command=prepare_recordings)

    cut: argparse.ArgumentParser = commands.add_parser(
        "cut",
        help="cut long recordings at their pauses",
        description="Copy a folder of recordings to NEW, a new folder, with long ones cut at their pauses.",
        epilog=_CUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cut.add_argument("recordings", type=Path, metavar="RECORDINGS", help="a folder")
    cut.add_argument("new", type=Path, metavar="NEW", help="the folder to make")
    cut.add_argument(
        "--max-seconds", type=float, default=15.0, metavar="N", help="how long a piece may be (default: 15)"
    )
    cut.set_defaults(command=cut_recordings)


def prepare_recordings(parsed: argparse.Namespace) -> None:
    """Check, and unless that is all, encode."""
    from training.codes import prepare_codes
    from training.errors import TrainingError

    if (parsed.out is None) is not parsed.check:
        raise CommandFailed("name either the folder OUT for the codes, or --check", Exit.USAGE)
    manifest = _manifest(parsed.recordings)
    report = _checked(manifest, parsed.max_seconds)
    if report.errors and not (parsed.leave_out and report.clips):
        way_on = "mend them, or go on without those recordings with --leave-out" if report.clips else "mend them"
        raise CommandFailed(f"{parsed.recordings} has errors, listed above: {way_on}")
    if parsed.check:
        return
    line = Progress(sys.stderr)
    line.show("loading the codec …", at_once=True)
    try:
        encoder = load_encoder(_engine_config(parsed.model))
        bar = _Bar(line, "encoding")
        prepared = prepare_codes(
            report.clips, report.speakers, parsed.out, encoder, lambda done, total, _: bar.show(done, total)
        )
    except (TrainingError, EngineError) as error:
        raise CommandFailed(str(error)) from None
    finally:
        line.clear()
    print(
        f"{parsed.out}: {len(report.clips)} clips; {prepared.made} encoded now, {prepared.kept} as before, of these "
        f"{prepared.retold} with other words; {prepared.removed} gone"
    )


def cut_recordings(parsed: argparse.Namespace) -> None:
    """Cut, and say what is left to do."""
    from training import cutting
    from training.errors import TrainingError

    manifest = _manifest(parsed.recordings)
    line = Progress(sys.stderr)
    try:
        cut = cutting.cut_recordings(manifest, parsed.new, parsed.max_seconds, _Bar(line, "cutting").show)
    except TrainingError as error:
        raise CommandFailed(str(error)) from None
    finally:
        line.clear()
    for problem in cut.problems:
        print(one_line(str(problem)), file=sys.stderr)
    print(f"{parsed.new}: {cut.pieces} recordings, {cut.unwritten} of them without a transcript")
    if cut.unwritten:
        print(f"Write what is said in each into the column text of {parsed.new / 'metadata.csv'}.")
    if cut.problems:
        raise CommandFailed("some recordings were not cut; they are listed above")


def _manifest(folder: Path) -> Manifest:
    from training.errors import TrainingError
    from training.manifest import read_manifest

    try:
        return read_manifest(folder)
    except TrainingError as error:
        raise CommandFailed(str(error)) from None


def _checked(manifest: Manifest, longest_seconds: float) -> Report:
    """Check, and tell everything that was found."""
    from training.dataset_validation import check

    line = Progress(sys.stderr)
    try:
        report = check(manifest, longest_seconds, told=_Bar(line, "listening").show)
    finally:
        line.clear()
    for problem in report.problems:
        print(one_line(str(problem)), file=sys.stderr)
    print("\n".join(report.summary()))
    return report


def _engine_config(model: str | None) -> EngineConfig:
    try:
        settings = load_model_settings()
    except SettingsError as error:
        raise CommandFailed(str(error), Exit.USAGE) from None
    return EngineConfig(model or settings.model, device=settings.device, hub_token=settings.hub_token)


class _Bar:
    """How much of something is done, and how long the rest will take."""

    def __init__(self, line: Progress, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._line, self._what, self._clock = line, what, clock
        self._began = clock()

    def show(self, done: int, total: int) -> None:
        filled = _BAR * done // total
        left = (self._clock() - self._began) * (total - done) / done
        self._line.show(
            f"{self._what} [{'#' * filled}{'-' * (_BAR - filled)}] {done}/{total}, "
            f"{int(left) // 60}:{int(left) % 60:02} left",
            at_once=done == total,
        )
