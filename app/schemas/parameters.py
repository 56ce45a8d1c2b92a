"""Base of all request parameters: no unknown ones, no NaN or infinity, and no boolean in place of a number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from engine import FRAME_MILLISECONDS

MAX_MILLISECONDS = 600_000


def check_audio_length(milliseconds: int) -> int:
    """The length unchanged. Raises ValueError if it is less than one frame and not 0."""
    if 0 < milliseconds < FRAME_MILLISECONDS:
        raise ValueError(f"it must be from {FRAME_MILLISECONDS} to {MAX_MILLISECONDS}, or 0 for no limit")
    return milliseconds


AudioLength = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_MILLISECONDS,
        description=f"Maximum length of the audio in milliseconds, from {FRAME_MILLISECONDS}; 0 is no limit.",
    ),
    AfterValidator(check_audio_length),
]


class RequestParameters(BaseModel):
    """Parameters of one request, from a query, a JSON body or a WebSocket message."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Raises ValueError for true or false where a number is meant; Python, and so pydantic, takes true for 1."""
        assert info.field_name is not None
        types = set(_types_within(cls.model_fields[info.field_name].annotation))
        if bool not in types and types & {int, float} and _has_boolean(value):
            raise ValueError("it must be a number")  # the value follows
        return value


def _types_within(annotation: Any) -> Iterable[Any]:
    """All types that an annotation is made of: list, int and None of `list[int] | None`."""
    yield annotation
    for argument in get_args(annotation):
        yield from _types_within(argument)


def _has_boolean(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(isinstance(each, bool) for each in value))
