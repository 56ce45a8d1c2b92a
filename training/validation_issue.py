"""Problem: one thing that is wrong with one recording, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ValidationIssue:
    """where: the file, or the line of a file. what: what is wrong and what to do, for people.

    is_error: the recording cannot be taught from; otherwise it can, but somebody should look.
    """

    where: str
    what: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {self.where}: {self.what}"
