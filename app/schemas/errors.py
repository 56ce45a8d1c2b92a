"""Error response body, and its entries in the OpenAPI document (API.md section 7)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

SPEECH_ERRORS = (400, 401, 404, 413, 422, 429, 500, 503)  # statuses of every route that generates speech


class ErrorBody(BaseModel):
    """Every error: what is wrong and what to do about it, and a machine-readable code."""

    detail: str
    code: str


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these error statuses."""
    return {status: {"model": ErrorBody} for status in statuses}


class ElevenLabsErrorDetail(BaseModel):
    """status: machine-readable, by ElevenLabs' names where it has one. message: what is wrong and what to do."""

    status: str
    message: str


class ElevenLabsErrorBody(BaseModel):
    """Every error on ElevenLabs' routes. code: as on all other routes."""

    detail: ElevenLabsErrorDetail
    code: str


def elevenlabs_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for ElevenLabs' clients that can answer with these error statuses."""
    return {status: {"model": ElevenLabsErrorBody} for status in statuses}
