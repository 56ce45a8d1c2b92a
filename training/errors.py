"""What can go wrong while CSM is taught.

TrainingError
├── RecordingsError   a folder of recordings cannot be read as one, or cannot be cut: names the file and the line
├── CodesError        a folder of prepared codes is missing, damaged or of another codec
├── LayoutError       a clip does not fit this model or this batch: names the clip
├── BaseError         a checkpoint cannot be taught, or an adapter does not belong to it
├── ResumeError       a directory holds a run that this one cannot go on with
├── Diverged          the loss is no number any more
└── OutOfMemory       a batch does not fit into the GPU
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of everything this package raises on purpose; the message says what to do."""


class RecordingsError(TrainingError):
    """A folder of recordings cannot be used as it is."""


class CodesError(TrainingError):
    """A folder of prepared codes cannot be used."""


class LayoutError(TrainingError):
    """A clip does not fit into this model, or into a batch as large as was asked for."""


class BaseError(TrainingError):
    """A checkpoint cannot be taught, or an adapter does not belong to it."""


class ResumeError(TrainingError):
    """The directory holds a run that this one cannot go on with."""


class Diverged(TrainingError):
    """The loss is not finite any more."""


class OutOfMemory(TrainingError):
    """A batch does not fit into the GPU's memory."""
