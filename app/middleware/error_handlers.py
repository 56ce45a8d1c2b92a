"""Error handlers: every error response is {"detail", "code"} (API.md section 7), in the format of its path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import compile_path

import engine

from ..errors import ServiceError, Unprocessable, error_body, from_engine
from ..observability.request_log import record_of

_MAX_ECHO = 60  # characters of an invalid value that are sent back


def install(app: FastAPI) -> None:
    """Register the handlers of all errors of an application."""
    app.exception_handler(ServiceError)(_service_error)
    app.exception_handler(engine.EngineError)(_engine_error)
    app.exception_handler(RequestValidationError)(_validation_error)
    app.exception_handler(HTTPException)(_http_error)


def response_of(error: ServiceError, path: str) -> JSONResponse:
    return JSONResponse(error.body_at(path), error.status, headers=error.headers)


def _respond(request: Request, error: ServiceError) -> JSONResponse:
    """The response; its code is recorded for the log and the metrics."""
    record_of(request.scope).code = error.code
    return response_of(error, request.scope["path"])


async def _service_error(request: Request, error: ServiceError) -> JSONResponse:
    return _respond(request, error)


async def _engine_error(request: Request, error: engine.EngineError) -> JSONResponse:
    return _respond(request, from_engine(error))


async def _validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
    return _respond(request, Unprocessable(describe_all(error), code="invalid_parameter"))


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    code = re.sub(r"\W+", "_", HTTPStatus(error.status_code).phrase.lower())
    detail, headers, path = str(error.detail), dict(error.headers or {}), request.scope["path"]
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is no {request.method} {path[:_MAX_ECHO]}: see the routes in GET /openapi.json"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request.app, path)) or headers.get("Allow", "")
        detail = f"{path[:_MAX_ECHO]} takes {headers['Allow']}, not {request.method}"
    return JSONResponse(error_body(path, error.status_code, detail, code), error.status_code, headers=headers)


def _methods(app: FastAPI, path: str) -> list[str]:
    """All methods of a path; the framework lists those of only one of its routes."""
    return sorted(
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if compile_path(template)[0].match(path)
        for method in operations
    )


def describe_all(error: ValidationError | RequestValidationError, place: Sequence[str] = ()) -> str:
    """What is wrong, each thing once. place: of what was validated, in what the client sent."""
    errors: Sequence[Mapping[str, Any]] = error.errors()
    return "; ".join(dict.fromkeys(describe({**each, "loc": (*place, *each["loc"])}) for each in errors))


def describe(error: Mapping[str, Any]) -> str:
    """One validation error of pydantic as a sentence: the parameter, what is wrong, and its value."""
    location = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
    name, kind, value = ".".join(location), error["type"], error.get("input")
    if kind == "json_invalid":
        return f"the body is not JSON ({error.get('ctx', {}).get('error', 'it cannot be parsed')})"
    if kind == "extra_forbidden":
        return f"{name[:_MAX_ECHO]} is not a parameter: see the parameters in GET /openapi.json"
    if kind == "missing":
        return f"{name} is missing" if name else 'the body is missing: send a JSON object such as {"text": "Hello."}'
    if not name:
        if kind in ("model_attributes_type", "model_type", "dict_type"):
            return 'the body must be a JSON object such as {"text": "Hello."}, with Content-Type: application/json'
        return str(error["msg"]).removeprefix("Value error, ")
    message = str(error["msg"]).removeprefix("Value error, ")
    if name == "text" or not isinstance(value, str | int | float):
        return f"{name}: {message}"
    return f"{name}: {message}, not {str(value)[:_MAX_ECHO]!r}"
