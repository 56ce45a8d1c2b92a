"""What can go wrong in the engine.

EngineError
├── CheckpointError          the weights cannot be used: names the file and what is missing
│   └── CheckpointNotFound   there are none to use: no such directory, no access, no network
├── InvalidRequest           this request can never be spoken; says which value and what it may be
│   └── PromptTooLong        its text and voice leave no room in the model's context
├── EngineFailed             the engine broke while speaking; the request is lost
│   └── EngineOutOfMemory    for want of memory
└── EngineClosed             the engine was closed before the request was done
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of everything this package raises on purpose."""


class CheckpointError(EngineError):
    """A checkpoint cannot be used; the message names the file and what is wrong with it."""


class CheckpointNotFound(CheckpointError):
    """There is no checkpoint to use: no such directory, no access to the repository, no network."""


class InvalidRequest(EngineError):
    """A request that can never be spoken; the message names the value and what it may be."""


class PromptTooLong(InvalidRequest):
    """Text and voice leave no room for audio in the model's context."""


class EngineFailed(EngineError):
    """The engine broke while it was speaking."""


class EngineOutOfMemory(EngineFailed):
    """The engine ran out of memory."""


class EngineClosed(EngineError):
    """The engine was closed before the request was done."""
