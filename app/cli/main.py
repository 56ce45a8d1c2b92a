"""Entry point of the csm-serve command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from pydantic.fields import FieldInfo

    from ..pool.assignment import assign_workers
    from ..pool.gpus import visible_gpus
    from ..server.preflight import cannot_start, check
    from ..settings import Settings
    from ..settings_loader import SettingsError, load_settings
    from . import chat, cluster, dataset, keys, runpod, speak, talk, train, voices, wyoming
    from .exit_status import run
except ImportError as missing:  # instead of a traceback
    sys.stderr.write(f"csm-serve cannot start: {missing} (the Python environment is not complete: `make install`)\n")
    raise SystemExit(1) from None

_BASE = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status; `serve` returns only if its settings are invalid, with 2."""
    parsed = _parser().parse_args(arguments)
    return _serve(parsed) if parsed.command is _serve else run(parsed.command, parsed)


def _serve(parsed: argparse.Namespace) -> int:
    for name in ("host", "port"):
        if getattr(parsed, name) is not None:
            os.environ[name.upper()] = getattr(parsed, name)
    try:
        settings = load_settings()
        assign_workers(settings, visible_gpus(settings.device, os.environ))
        check(settings, settings.addresses)
    except SettingsError as error:
        print(cannot_start(error), file=sys.stderr)
        return 2
    command = serve_command()
    return os.execv(command[0], command)


def serve_command() -> list[str]:
    """gunicorn with this interpreter and the configuration file beside the package."""
    return [sys.executable, "-m", "gunicorn", "--config", str(_BASE / "gunicorn.conf.py"), "app.main:app"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="csm-serve",
        description="Real-time speech from Sesame CSM-1B over HTTP.\n`csm-serve COMMAND --help` describes a command.",
        epilog=f"Settings come from the environment, or from .env in the current directory:\n\n{_settings_table()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="start the service", description="Start the service.")
    serve.add_argument("--host", help="the address to listen on (HOST)")
    serve.add_argument("--port", help="the port to listen on (PORT)")
    serve.set_defaults(command=_serve)
    speak.add_parser(commands)
    chat.add_parser(commands)
    talk.add_parser(commands)
    voices.add_parser(commands)
    wyoming.add_parser(commands)
    runpod.add_parser(commands)
    keys.add_parser(commands)
    dataset.add_parsers(commands)
    train.add_parsers(commands)
    cluster.add_parser(commands)
    return parser


def _settings_table() -> str:
    return "\n".join(
        f"  {name.upper():36} {_default(field):17} {field.description}" for name, field in Settings.model_fields.items()
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "auto" if "auto" in str(field.description) else "-"
    if isinstance(field.default, tuple):
        return ",".join(field.default)
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


if __name__ == "__main__":
    sys.exit(main())
