"""What can go wrong for a client.

CsmError
├── Misconfigured         the address or the key cannot be used: nothing was sent
├── Unreachable           nobody answers at the address, or not in time
├── UnexpectedAnswer      what answers there is not csm-serve
├── StreamCut             the audio ended before the speech did: what came of it is not whole
└── ApiError              the service said no: status, code, detail, retry_after, request_id
    ├── BadRequest 400         ├── TooLarge 413
    ├── Unauthorized 401       ├── UnsupportedMedia 415
    ├── Forbidden 403          ├── Unprocessable 422
    ├── NotFound 404           ├── Busy 429            every slot is taken: again after retry_after
    ├── Conflict 409           ├── Unavailable 503     starting or stopping: again after retry_after
    └── ServerFailed 500 and above
"""

from __future__ import annotations


class CsmError(Exception):
    """Base of everything this package raises on purpose."""


class Misconfigured(CsmError):
    """The address or the key cannot be used; the message says why."""


class Unreachable(CsmError):
    """Nobody answers at the address, or not in time."""


class UnexpectedAnswer(CsmError):
    """What answers at the address does not speak as csm-serve does."""


class StreamCut(CsmError):
    """The audio ended before the speech did: what came of it is not whole."""


class ApiError(CsmError):
    """The service answered with an error.

    detail: what is wrong and what to do. code: the same for programs, in snake_case.
    retry_after: seconds after which it may go better; None if it did not say.
    request_id: what the log of the service calls the request.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str = "unknown",
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.request_id = request_id


class BadRequest(ApiError):
    """Audio that cannot be decoded, an unknown format, a body that is malformed."""


class Unauthorized(ApiError):
    """The key is wrong, or there is none."""


class Forbidden(ApiError):
    """A preloaded voice cannot be changed."""


class NotFound(ApiError):
    """There is no such voice."""


class Conflict(ApiError):
    """There is such a voice already."""


class TooLarge(ApiError):
    """A body or a recording is too large."""


class UnsupportedMedia(ApiError):
    """A recording is not of a type that can be a voice."""


class Unprocessable(ApiError):
    """A parameter out of range, or a text that cannot be spoken."""


class Busy(ApiError):
    """Every slot is taken, and the queue is full or its wait is over."""


class ServerFailed(ApiError):
    """The service broke, before the first audio."""


class Unavailable(ApiError):
    """The service is starting or stopping."""


_KINDS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMedia,
    422: Unprocessable,
    429: Busy,
    503: Unavailable,
}


def kind_of(status: int) -> type[ApiError]:
    return _KINDS.get(status, ServerFailed if status >= 500 else ApiError)
