"""csm-serve prepare and csm-serve cut: validate, encode and split recordings for training."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import EngineConfig, EngineError, load_encoder

from ..settings import DEFAULT_MODEL
from ..settings_loader import SettingsError, load_model_settings
from .exit_status import CommandFailed, ExitStatus, one_line
from .progress import Progress

if TYPE_CHECKING:
    from training.dataset_validation import ValidationReport
    from training.manifest import Manifest

_BAR_WIDTH = 24  # characters

_LAYOUTS_HELP = """layouts of RECORDINGS, one of:
  metadata.csv    a header file,text,speaker, then one line per recording; speaker is optional
  metadata.csv    LJSpeech: id|text|normalized text, with the recordings in wavs/
  metadata.jsonl  {"file": "one.wav", "text": "Its transcript.", "speaker": "anna"} on each line
  NAME.txt        beside each NAME.wav, for a single speaker"""

_PREPARE_EPILOG = f"""{_LAYOUTS_HELP}

examples:
  csm-serve prepare recordings --check         list all issues, write nothing
  csm-serve prepare recordings prepared        the same, then encode the recordings
Run it again after any change: only new recordings are encoded.

exit status:
  0  success, possibly with warnings
  1  the recordings have errors and nothing was written (--leave-out skips those recordings)
  2  the command line or the settings are invalid"""

_CUT_EPILOG = f"""Recordings that are short enough are copied with their transcripts. Pieces of a long one are listed
in NEW's metadata.csv with an empty `text`: listen to each and add its transcript. The transcript of the long recording,
if any, is put beside its first piece in the column `whole_text`, for you to divide.
`csm-serve prepare NEW OUT --leave-out` skips pieces without a transcript.

{_LAYOUTS_HELP}"""


def add_parsers(commands: Any) -> None:
    prepare: argparse.ArgumentParser = commands.add_parser(
        "prepare",
        usage="csm-serve prepare RECORDINGS (OUT | --check) [options]",
        help="validate and encode recordings with transcripts for training",
        description="Validate a folder of recordings with transcripts and encode them into OUT with the model's codec.",
        epilog=_PREPARE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prepare.add_argument("recordings", type=Path, metavar="RECORDINGS", help="a folder")
    prepare.add_argument("out", type=Path, nargs="?", metavar="OUT", help="folder for the codes")
    prepare.add_argument("--check", action="store_true", help="only list issues")
    prepare.add_argument("--leave-out", action="store_true", help="skip recordings with errors")
    prepare.add_argument(
        "--max-seconds", type=float, default=30.0, metavar="N", help="maximum duration of a recording (default: 30)"
    )
    prepare.add_argument(
        "--model", metavar="PATH", help=f"model whose codec is used; default: MODEL_PATH, else {DEFAULT_MODEL}"
    )
    prepare.set_defaults(command=prepare_recordings)

    cut: argparse.ArgumentParser = commands.add_parser(
        "cut",
        help="split long recordings at pauses",
        description="Copy a folder of recordings to the new folder NEW and split long ones at pauses.",
        epilog=_CUT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cut.add_argument("recordings", type=Path, metavar="RECORDINGS", help="a folder")
    cut.add_argument("new", type=Path, metavar="NEW", help="folder to create")
    cut.add_argument(
        "--max-seconds", type=float, default=15.0, metavar="N", help="maximum duration of a piece (default: 15)"
    )
    cut.set_defaults(command=cut_recordings)


def prepare_recordings(parsed: argparse.Namespace) -> None:
    """Validate the recordings and, without --check, encode them."""
    from training.codes import prepare_codes
    from training.errors import TrainingError

    if (parsed.out is None) is not parsed.check:
        raise CommandFailed("give either the folder OUT or --check", ExitStatus.USAGE)
    manifest = _read_manifest(parsed.recordings)
    report = _validate(manifest, parsed.max_seconds)
    if report.errors and not (parsed.leave_out and report.clips):
        remedy = "fix them, or skip those recordings with --leave-out" if report.clips else "fix them"
        raise CommandFailed(f"{parsed.recordings} has errors, listed above: {remedy}")
    if parsed.check:
        return
    line = Progress(sys.stderr)
    line.show("loading the codec …", force=True)
    try:
        encoder = load_encoder(_engine_config(parsed.model))
        bar = _ProgressBar(line, "encoding")
        prepared = prepare_codes(
            report.clips, report.speakers, parsed.out, encoder, lambda done, total, _: bar.show(done, total)
        )
    except (TrainingError, EngineError) as error:
        raise CommandFailed(str(error)) from None
    finally:
        line.clear()
    print(
        f"{parsed.out}: {len(report.clips)} clips; {prepared.encoded} encoded, {prepared.reused} reused "
        f"({prepared.retranscribed} with a new transcript), {prepared.removed} removed"
    )


def cut_recordings(parsed: argparse.Namespace) -> None:
    """Split long recordings and print which transcripts are missing."""
    from training import cutting
    from training.errors import TrainingError

    manifest = _read_manifest(parsed.recordings)
    line = Progress(sys.stderr)
    try:
        cut = cutting.cut_recordings(manifest, parsed.new, parsed.max_seconds, _ProgressBar(line, "cutting").show)
    except TrainingError as error:
        raise CommandFailed(str(error)) from None
    finally:
        line.clear()
    for issue in cut.issues:
        print(one_line(str(issue)), file=sys.stderr)
    print(f"{parsed.new}: {cut.pieces} recordings, {cut.untranscribed} of them without a transcript")
    if cut.untranscribed:
        print(f"Add their transcripts to the column text of {parsed.new / 'metadata.csv'}.")
    if cut.issues:
        raise CommandFailed("some recordings were not copied; they are listed above")


def _read_manifest(folder: Path) -> Manifest:
    from training.errors import TrainingError
    from training.manifest import read_manifest

    try:
        return read_manifest(folder)
    except TrainingError as error:
        raise CommandFailed(str(error)) from None


def _validate(manifest: Manifest, max_seconds: float) -> ValidationReport:
    """Validate the data set and print every issue."""
    from training.dataset_validation import validate_dataset

    line = Progress(sys.stderr)
    try:
        report = validate_dataset(manifest, max_seconds, on_progress=_ProgressBar(line, "validating").show)
    finally:
        line.clear()
    for issue in report.issues:
        print(one_line(str(issue)), file=sys.stderr)
    print("\n".join(report.summary()))
    return report


def _engine_config(model: str | None) -> EngineConfig:
    try:
        settings = load_model_settings()
    except SettingsError as error:
        raise CommandFailed(str(error), ExitStatus.USAGE) from None
    return EngineConfig(model or settings.model, device=settings.device, hub_token=settings.hub_token)


class _ProgressBar:
    """Progress with an estimate of the remaining time."""

    def __init__(self, line: Progress, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._line, self._label, self._clock = line, label, clock
        self._started = clock()

    def show(self, done: int, total: int) -> None:
        filled = _BAR_WIDTH * done // total
        remaining = (self._clock() - self._started) * (total - done) / done
        self._line.show(
            f"{self._label} [{'#' * filled}{'-' * (_BAR_WIDTH - filled)}] {done}/{total}, "
            f"{int(remaining) // 60}:{int(remaining) % 60:02} remaining",
            force=done == total,
        )
