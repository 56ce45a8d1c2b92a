"""Error responses: the exception tree, and the table of the engine's errors (API.md section 7).

ServiceError
├── BadRequest 400           UnknownFormat, UndecodableAudio
├── Unauthorized 401
├── Forbidden 403            PreloadedVoice
├── NotFound 404             UnknownVoice
├── Conflict 409             VoiceExists
├── TooLarge 413
├── UnsupportedMedia 415     NotAudio
├── Unprocessable 422        a parameter out of range, a text too long
├── Busy 429                 all slots taken, and the queue full or the wait timed out
├── LimitReached 429         a limit of the API key is used up
├── EngineBroke 500          the engine failed before the first byte
└── Unavailable 503          starting, draining, or no worker ready
    └── ComponentFailed           a component of the service does not work
"""

from __future__ import annotations

from typing import ClassVar

import engine


class ServiceError(Exception):
    """An error response. `detail`: what is wrong and what to do about it."""

    status: ClassVar[int] = 500
    code: str = "internal_error"
    retry_after: int | None = None  # seconds, sent as Retry-After

    def __init__(self, detail: str, *, code: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        if retry_after is not None:
            self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @property
    def body(self) -> dict[str, str]:
        return {"detail": self.detail, "code": self.code}

    def body_at(self, path: str) -> dict[str, object]:
        """The response body on a path, in the format of the clients that call it."""
        return error_body(path, self.status, self.detail, self.code)


def error_body(path: str, status: int, detail: str, code: str) -> dict[str, object]:
    """The body of an error response on a path.

    On ElevenLabs' paths `detail` is the object that its clients read; elsewhere under /v1 OpenAI's `error` is added.
    """
    if path in _ELEVENLABS_PATHS or path.startswith(_ELEVENLABS_PREFIXES):
        return {"detail": {"status": _ELEVENLABS_STATUSES.get(code, code), "message": detail}, "code": code}
    if not path.startswith("/v1/"):
        return {"detail": detail, "code": code}
    kind = "server_error" if status >= 500 else _OPENAI_KINDS.get(status, "invalid_request_error")
    return {"detail": detail, "code": code, "error": {"message": detail, "type": kind, "param": None, "code": code}}


_OPENAI_KINDS = {401: "authentication_error", 429: "rate_limit_error"}
_ELEVENLABS_PATHS = frozenset({"/v1/voices", "/v2/voices", "/v1/user/subscription", "/v1/text-to-dialogue"})
_ELEVENLABS_PREFIXES = ("/v1/text-to-speech/", "/v1/voices/", "/v1/text-to-dialogue/")
# Where ElevenLabs has a name of its own for what a code means.
_ELEVENLABS_STATUSES = {
    "unauthorized": "invalid_api_key",
    "unknown_voice": "voice_not_found",
    "text_too_long": "max_character_limit_exceeded",
    "unknown_format": "invalid_output_format",
    "busy": "system_busy",
    "concurrency_limit": "too_many_concurrent_requests",
    "request_rate_limit": "rate_limit_exceeded",
    "audio_rate_limit": "rate_limit_exceeded",
    "daily_audio_limit": "quota_exceeded",
}


class BadRequest(ServiceError):
    status = 400
    code = "bad_request"


class UnknownFormat(BadRequest):
    code = "unknown_format"


class UndecodableAudio(BadRequest):
    code = "undecodable_audio"


class Unauthorized(ServiceError):
    status = 401
    code = "unauthorized"


class Forbidden(ServiceError):
    status = 403
    code = "forbidden"


class PreloadedVoice(Forbidden):
    code = "preloaded_voice"


class NotFound(ServiceError):
    status = 404
    code = "not_found"


class UnknownVoice(NotFound):
    code = "unknown_voice"


class Conflict(ServiceError):
    status = 409
    code = "conflict"


class VoiceExists(Conflict):
    code = "voice_exists"


class TooLarge(ServiceError):
    status = 413
    code = "too_large"


class UnsupportedMedia(ServiceError):
    status = 415
    code = "unsupported_media"


class NotAudio(UnsupportedMedia):
    code = "not_audio"


class Unprocessable(ServiceError):
    status = 422
    code = "unprocessable"


class Busy(ServiceError):
    status = 429
    code = "busy"
    retry_after = 1


class LimitReached(ServiceError):
    """limit: its name in API_KEYS_FILE."""

    status = 429
    code = "rate_limit"

    def __init__(
        self, detail: str, *, code: str | None = None, retry_after: int | None = None, limit: str = ""
    ) -> None:
        super().__init__(detail, code=code, retry_after=retry_after)
        self.limit = limit


class EngineBroke(ServiceError):
    status = 500
    code = "engine_failed"


class Unavailable(ServiceError):
    status = 503
    code = "unavailable"
    retry_after: int | None = 5


class ComponentFailed(Unavailable):
    """The operator has to fix it: no Retry-After, since a retry does not help."""

    code = "component_failed"
    retry_after = None


_FROM_ENGINE: tuple[tuple[type[engine.EngineError], type[ServiceError], str], ...] = (
    (engine.PromptTooLong, Unprocessable, "prompt_too_long"),
    (engine.InvalidMarkup, Unprocessable, "invalid_markup"),
    (engine.NoWords, Unprocessable, "no_words"),
    (engine.InvalidRequest, Unprocessable, "invalid_parameter"),
    (engine.CheckpointError, Unavailable, "no_model"),
    (engine.EngineClosed, Unavailable, "draining"),
    (engine.EngineOutOfMemory, EngineBroke, "out_of_memory"),
    (engine.EngineError, EngineBroke, "engine_failed"),
)


def from_engine(error: engine.EngineError) -> ServiceError:
    """The response for an engine's error: the first row of the table that matches. The last one matches all."""
    for kind, answer, code in _FROM_ENGINE:
        if isinstance(error, kind):
            return answer(str(error), code=code)
    raise AssertionError("the last row of the table matches every EngineError") from error
