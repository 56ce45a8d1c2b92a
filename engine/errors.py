"""The engine's error tree.

EngineError
├── CheckpointError          the weights cannot be used; names the file and what is missing
│   └── CheckpointNotFound   no checkpoint found: no such directory, no access, no network
├── InvalidRequest           the request can never be served; names the value and its allowed range
│   ├── PromptTooLong        text and voice leave no room for audio in the model's context
│   ├── InvalidMarkup        a pause or an element of SSML that is not known or not well formed; names it
│   └── NoWords              the text has nothing to say
├── EngineFailed             the engine failed during the request; the request is lost
│   └── EngineOutOfMemory    out of memory
└── EngineClosed             the engine was closed before the request finished
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that this package raises on purpose."""


class CheckpointError(EngineError):
    """A checkpoint cannot be used; the message names the file and what is wrong with it."""


class CheckpointNotFound(CheckpointError):
    """No checkpoint was found: no such directory, no access to the repository, no network."""


class InvalidRequest(EngineError):
    """A request that can never be served; the message names the value and its allowed range."""


class PromptTooLong(InvalidRequest):
    """Text and voice leave no room for audio in the model's context."""


class InvalidMarkup(InvalidRequest):
    """A pause or an element of SSML that is not known or not well formed."""


class NoWords(InvalidRequest):
    """The text has nothing to say: neither words nor pauses."""


class EngineFailed(EngineError):
    """The engine failed during the request."""


class EngineOutOfMemory(EngineFailed):
    """The engine ran out of memory."""


class EngineClosed(EngineError):
    """The engine was closed before the request finished."""
