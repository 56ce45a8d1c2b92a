"""The words of a recording: what may stand in a transcript, and the note that ties one to its recording."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import asdict, dataclass

from ..errors import Unprocessable
from .folder import VoiceFolder, stem_of

MAX_CHARACTERS = 2000
MAX_BYTES = 4 * MAX_CHARACTERS + 4096  # of a file that may hold one: room for a byte order mark and blank lines


def clean_transcript(text: str) -> str:
    """One line of it: every run of blanks and newlines becomes one space. Raises Unprocessable."""
    folded = " ".join(text.split())
    if len(folded) > MAX_CHARACTERS:
        raise Unprocessable(
            f"the transcript has {len(folded)} characters; at most {MAX_CHARACTERS} are taken: send the words of the"
            " recording and nothing else",
            code="bad_transcript",
        )
    for place, character in enumerate(folded):
        if unicodedata.category(character) in ("Cc", "Cs"):  # control characters, lone surrogates
            what = f"U+{ord(character):04X} at character {place + 1}"
            raise Unprocessable(
                f"the transcript holds {what}, which is no text: send it without", code="bad_transcript"
            )
    return folded


def read_transcript(data: bytes, name: str) -> str:
    """The transcript in a text file of that name. Raises Unprocessable."""
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
    """What the store keeps of an upload's transcript, in a hidden file named after the recording's content.

    transcript: as it was uploaded; empty if there was none.
    beside: sha256 of the NAME.txt that lay beside the recording then, and that this overrides; None if none did.
    """

    transcript: str
    beside: str | None

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> TranscriptSidecar | None:
        """None where it is not one of ours."""
        try:
            note = cls(**json.loads(data))
            return note if isinstance(note.transcript, str) and isinstance(note.beside, str | None) else None
        except (ValueError, TypeError):
            return None


def transcript_names(voice_id: str) -> tuple[str, ...]:
    """What a transcript put down by hand may be called, the more particular name first."""
    return tuple(dict.fromkeys((f"{voice_id}.txt", f"{stem_of(voice_id)}.txt")))


def find_transcript(folder: VoiceFolder, name: str, sha256: str) -> str:
    """The words of the recording `name` whose content has that hash; empty if they are not known.

    What was put down by hand counts, unless the upload's note has overridden just that. Raises Unprocessable, OSError.
    """
    beside = _read_text_file(folder, name)
    sidecar_file = folder.read(folder.sidecar_name(name, sha256), 16 * MAX_BYTES)
    note = TranscriptSidecar.from_bytes(sidecar_file[1]) if sidecar_file else None
    if note and (beside is None or hashlib.sha256(beside[1]).hexdigest() == note.beside):
        return note.transcript
    return read_transcript(beside[1], beside[0]) if beside else ""


def write_sidecar(folder: VoiceFolder, name: str, sha256: str, transcript: str) -> None:
    """Let that content of `name` have that transcript, whatever lies beside it now. Raises OSError."""
    beside = _read_text_file(folder, name)
    note = TranscriptSidecar(transcript, beside=hashlib.sha256(beside[1]).hexdigest() if beside else None)
    with folder.staged(note.to_bytes()) as staged:
        folder.put(staged, folder.sidecar_name(name, sha256))


def _read_text_file(folder: VoiceFolder, name: str) -> tuple[str, bytes] | None:
    """The transcript that was put down by hand: its name and content."""
    for candidate in transcript_names(name):
        if found := folder.read(candidate, MAX_BYTES + 1):
            return candidate, found[1]
    return None
