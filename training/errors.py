"""What can go wrong while CSM is taught.

TrainingError
├── RecordingsError   a folder of recordings cannot be read as one, or cannot be cut: names the file and the line
└── CodesError        a folder of prepared codes is missing, damaged or of another codec
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of everything this package raises on purpose; the message says what to do."""


class RecordingsError(TrainingError):
    """A folder of recordings cannot be used as it is."""


class CodesError(TrainingError):
    """A folder of prepared codes cannot be used."""
