"""ValidationIssue: one problem of one recording and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ValidationIssue:
    """location: file, or file and line. message: what is wrong and how to fix it.

    is_error: the recording cannot be used; otherwise it can, but should be looked at.
    """

    location: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {self.location}: {self.message}"
