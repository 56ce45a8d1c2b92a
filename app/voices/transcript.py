"""Transcripts of recordings: validation, and the sidecar file that ties a transcript to one recording."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import asdict, dataclass

from ..errors import Unprocessable
from .folder import VoiceFolder
from .voice_id import stem_of

MAX_CHARACTERS = 2000
MAX_BYTES = 4 * MAX_CHARACTERS + 4096  # of a transcript file, with a byte order mark and blank lines


def clean_transcript(text: str) -> str:
    """Collapse whitespace and newlines to single spaces. Raises Unprocessable."""
    folded = " ".join(text.split())
    if len(folded) > MAX_CHARACTERS:
        raise Unprocessable(
            f"the transcript has {len(folded)} characters; the limit is {MAX_CHARACTERS}: send the words of the"
            " recording and nothing else",
            code="bad_transcript",
        )
    for position, character in enumerate(folded, 1):
        if unicodedata.category(character) in ("Cc", "Cs"):  # control characters, lone surrogates
            raise Unprocessable(
                f"the transcript contains U+{ord(character):04X} at character {position}, which is not text: remove it",
                code="bad_transcript",
            )
    return folded


def read_transcript(data: bytes, name: str) -> str:
    """Parse the content of a transcript file. name: for error messages. Raises Unprocessable."""
    try:
        if len(data) > MAX_BYTES:
            raise Unprocessable(f"it has more than {MAX_BYTES} bytes", code="bad_transcript")
        return clean_transcript(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Unprocessable(f"{name} is not UTF-8: save it as UTF-8 text", code="bad_transcript") from None
    except Unprocessable as error:
        raise Unprocessable(f"{name}: {error.detail}", code="bad_transcript") from None


@dataclass(frozen=True)
class TranscriptSidecar:
    """Transcript of an upload, stored in a hidden file named after the recording's content hash.

    transcript: as uploaded; empty if there was none.
    beside: sha256 of the NAME.txt that existed beside the recording at upload, which this overrides; None without one.
    """

    transcript: str
    beside: str | None

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> TranscriptSidecar | None:
        """Parse a sidecar file; None if it is not a valid one."""
        try:
            sidecar = cls(**json.loads(data))
            valid = isinstance(sidecar.transcript, str) and isinstance(sidecar.beside, str | None)
            return sidecar if valid else None
        except (ValueError, TypeError):
            return None


def transcript_names(voice_id: str) -> tuple[str, ...]:
    """File names of a manually added transcript, the more specific name first."""
    return tuple(dict.fromkeys((f"{voice_id}.txt", f"{stem_of(voice_id)}.txt")))


def find_transcript(folder: VoiceFolder, name: str, sha256: str) -> str:
    """Transcript of the recording `name` with that content hash; empty if there is none.

    A manually added text file takes precedence, unless it existed at the upload and its sidecar overrides it.
    Raises Unprocessable, OSError.
    """
    beside = _read_text_file(folder, name)
    sidecar_file = folder.read(folder.sidecar_name(name, sha256), 16 * MAX_BYTES)
    sidecar = TranscriptSidecar.from_bytes(sidecar_file[1]) if sidecar_file else None
    if sidecar and (beside is None or hashlib.sha256(beside[1]).hexdigest() == sidecar.beside):
        return sidecar.transcript
    return read_transcript(beside[1], beside[0]) if beside else ""


def write_sidecar(folder: VoiceFolder, name: str, sha256: str, transcript: str) -> None:
    """Set the transcript of this content of `name`, overriding a current text file beside it. Raises OSError."""
    beside = _read_text_file(folder, name)
    sidecar = TranscriptSidecar(transcript, beside=hashlib.sha256(beside[1]).hexdigest() if beside else None)
    with folder.staged(sidecar.to_bytes()) as staged:
        folder.put(staged, folder.sidecar_name(name, sha256))


def _read_text_file(folder: VoiceFolder, name: str) -> tuple[str, bytes] | None:
    """Name and content of a manually added transcript."""
    for candidate in transcript_names(name):
        if found := folder.read(candidate, MAX_BYTES + 1):
            return candidate, found[1]
    return None
