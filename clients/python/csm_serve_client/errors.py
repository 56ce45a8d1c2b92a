"""Exceptions of the client.

CsmError
├── Misconfigured         the address or the key is invalid: nothing was sent
├── Unreachable           connection error or timeout
├── UnexpectedAnswer      the response is not from csm-serve
├── StreamCut             the connection was aborted during the audio, which is incomplete, or a conversation
├── ConversationError     an event or a response of a conversation failed: code, detail; the conversation goes on
└── ApiError              an error response: status, code, detail, retry_after, request_id
    ├── BadRequest 400         ├── TooLarge 413
    ├── Unauthorized 401       ├── UnsupportedMedia 415
    ├── Forbidden 403          ├── Unprocessable 422
    ├── NotFound 404           ├── Busy 429            every slot is taken: retry after retry_after
    ├── Conflict 409           ├── Unavailable 503     starting or stopping: retry after retry_after
    └── ServerFailed 500 and above
"""

from __future__ import annotations


class CsmError(Exception):
    """Base class of the client's exceptions."""


class Misconfigured(CsmError):
    """The address or the key is invalid; the message says why."""


class Unreachable(CsmError):
    """Connection error or timeout."""


class UnexpectedAnswer(CsmError):
    """The response is not from csm-serve."""


class StreamCut(CsmError):
    """The connection was aborted during the audio, which is incomplete, or during a conversation."""


class ConversationError(CsmError):
    """An event was rejected or a response failed; the conversation goes on.

    detail: what is wrong and what to do. code: a stable name for programs, in snake_case.
    event_id: the rejected event's id, as the method that sent it returned it; None for a response.
    """

    def __init__(self, detail: str, *, code: str = "unknown", event_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.event_id = event_id


class ApiError(CsmError):
    """The service sent an error response.

    detail: what is wrong and what to do. code: a stable name for programs, in snake_case.
    retry_after: seconds to wait before a retry; None without a Retry-After header.
    request_id: the request's id in the service's log.
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
    """Audio that cannot be decoded, an unknown format, or a malformed body."""


class Unauthorized(ApiError):
    """The key is missing or wrong."""


class Forbidden(ApiError):
    """A preloaded voice cannot be changed."""


class NotFound(ApiError):
    """Unknown voice."""


class Conflict(ApiError):
    """The voice exists already."""


class TooLarge(ApiError):
    """A body or a recording is too large."""


class UnsupportedMedia(ApiError):
    """The recording is not in a supported audio format."""


class Unprocessable(ApiError):
    """A parameter is out of range, or the text cannot be spoken."""


class Busy(ApiError):
    """Every slot is taken, and the queue is full or the wait timed out."""


class ServerFailed(ApiError):
    """The service failed before the first audio."""


class Unavailable(ApiError):
    """The service is starting or stopping."""


_ERROR_OF_STATUS: dict[int, type[ApiError]] = {
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


def error_class_of(status: int) -> type[ApiError]:
    return _ERROR_OF_STATUS.get(status, ServerFailed if status >= 500 else ApiError)
