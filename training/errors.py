"""The errors of this package.

TrainingError
├── RecordingsError       a folder of recordings cannot be read or cut: names the file and the line
├── CodesError            a folder of prepared codes is missing, damaged or made with another codec
├── LayoutError           a clip does not fit the model or the batch: names the clip
├── BaseCheckpointError   a checkpoint cannot be trained, or an adapter does not belong to it
├── ResumeError           a directory holds the state of another run
├── DivergenceError       the loss is not finite
└── OutOfMemoryError      a batch does not fit into GPU memory
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base class of the errors that this package raises; the message says what to do."""


class RecordingsError(TrainingError):
    """A folder of recordings cannot be read or cut."""


class CodesError(TrainingError):
    """A folder of prepared codes is missing, damaged or made with another codec."""


class LayoutError(TrainingError):
    """A clip does not fit into the model's context or into a batch."""


class BaseCheckpointError(TrainingError):
    """A checkpoint cannot be trained, or an adapter does not belong to it."""


class ResumeError(TrainingError):
    """The directory holds the state of another run."""


class DivergenceError(TrainingError):
    """The loss is not finite."""


class OutOfMemoryError(TrainingError):
    """A batch does not fit into GPU memory."""
