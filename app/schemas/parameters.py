"""Base of all request parameters: no unknown ones, no NaN or infinity, and no boolean in place of a number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


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
            raise ValueError("it must be a number, not true or false")
        return value


def _types_within(annotation: Any) -> Iterable[Any]:
    """All types that an annotation is made of: list, int and None of `list[int] | None`."""
    yield annotation
    for argument in get_args(annotation):
        yield from _types_within(argument)


def _has_boolean(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(isinstance(each, bool) for each in value))
