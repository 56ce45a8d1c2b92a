"""csm-serve keys: makes, lists and removes the API keys of API_KEYS_FILE."""

from __future__ import annotations

import argparse
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..access.api_keys import ApiKey, hash_key
from ..access.key_file import InvalidKeyFile, edited_keys, read_keys
from ..settings_loader import SettingsError, load_key_settings
from .exit_status import EXIT_HELP, CommandFailed, ExitStatus

_LIMITS = {
    "concurrent-slots": "slots of its requests that wait or speak",
    "requests-per-minute": "requests for speech",
    "audio-seconds-per-minute": "seconds of audio",
    "audio-seconds-per-day": "seconds of audio, by the day in UTC",
}
_EXAMPLES = f"""examples:
  csm-serve keys add acme --concurrent-slots 4 --requests-per-minute 60 --audio-seconds-per-day 36000
  csm-serve keys list
  csm-serve keys remove acme

{EXIT_HELP}"""


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "keys",
        help="make, list and remove API keys with limits",
        description="Make, list and remove the API keys of API_KEYS_FILE. A running service follows at once.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    adding = verbs.add_parser(
        "add", help="make a key", description="Make a key and print it. The file keeps only its hash."
    )
    adding.add_argument("name", metavar="NAME", help="whom it belongs to, in logs and metrics")
    adding.add_argument("--weight", type=float, default=1.0, help="its share of the slots where keys wait (1)")
    for name, meaning in _LIMITS.items():
        adding.add_argument(f"--{name}", type=int, metavar="N", help=f"limit: {meaning}")
    adding.set_defaults(command=add_key)

    listing = verbs.add_parser("list", help="all keys and their limits", description="Print all keys and their limits.")
    listing.set_defaults(command=list_keys)

    removing = verbs.add_parser("remove", help="remove a key", description="Remove a key: it no longer opens anything.")
    removing.add_argument("name", metavar="NAME")
    removing.set_defaults(command=remove_key)
    for verb in (adding, listing, removing):
        verb.add_argument("--file", type=Path, metavar="FILE", help="by default API_KEYS_FILE")


def add_key(parsed: argparse.Namespace) -> None:
    key = f"csm_{secrets.token_urlsafe(32)}"
    limits = {name.replace("-", "_"): getattr(parsed, name.replace("-", "_")) for name in _LIMITS}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        entry = ApiKey(name=parsed.name, sha256=hash_key(key), weight=parsed.weight, created=created, **limits)
        with edited_keys(_file(parsed)) as keys:
            if any(each.name == entry.name for each in keys):
                raise CommandFailed(f"there is a key {entry.name!r}: remove it first", ExitStatus.USAGE)
            keys.append(entry)
    except ValidationError as error:
        first = error.errors()[0]
        raise CommandFailed(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", ExitStatus.USAGE) from None
    except (OSError, InvalidKeyFile) as error:
        raise _unusable(parsed, error) from None
    print(key)


def list_keys(parsed: argparse.Namespace) -> None:
    try:
        keys = read_keys(_file(parsed))
    except (OSError, InvalidKeyFile) as error:
        raise _unusable(parsed, error) from None
    width = max((len(each.name) for each in keys), default=0)
    for each in keys:
        limits = ", ".join(f"{name} {limit}" for name, limit in each.limits.items()) or "no limits"
        print(f"{each.name:{width}}  weight {each.weight:g}  {limits}")


def remove_key(parsed: argparse.Namespace) -> None:
    try:
        with edited_keys(_file(parsed)) as keys:
            kept = [each for each in keys if each.name != parsed.name]
            if len(kept) == len(keys):
                raise CommandFailed(f"there is no key {parsed.name!r}: see csm-serve keys list", ExitStatus.USAGE)
            keys[:] = kept
    except (OSError, InvalidKeyFile) as error:
        raise _unusable(parsed, error) from None
    print(f"{parsed.name} was removed.")


def _file(parsed: argparse.Namespace) -> Path:
    try:
        path: Path | None = parsed.file or load_key_settings().api_keys_file
    except SettingsError as error:
        raise CommandFailed(str(error), ExitStatus.USAGE) from None
    if path is None:
        raise CommandFailed("API_KEYS_FILE is not set: set it, or name a file with --file", ExitStatus.USAGE)
    return path


def _unusable(parsed: argparse.Namespace, error: Exception) -> CommandFailed:
    return CommandFailed(f"{_file(parsed)} cannot be used: {error}", ExitStatus.USAGE)
