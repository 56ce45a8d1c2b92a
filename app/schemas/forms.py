"""The OpenAPI description of a multipart form, which the routes read as a stream."""

from __future__ import annotations

from typing import Any

Field = dict[str, Any]  # a JSON schema


def recording_form(
    name: str, description: str, fields: dict[str, Field], *, required: tuple[str, ...] = (), others: bool = False
) -> dict[str, Any]:
    """`openapi_extra` of a route that takes a recording in the field `name`, and these fields.

    required: besides the recording. others: fields that are not listed are ignored, not refused.
    """
    schema: dict[str, Any] = {
        "type": "object",
        "required": [*required, name],
        "properties": {name: {"type": "string", "format": "binary", "description": description}, **fields},
    }
    if not others:
        schema["additionalProperties"] = False
    content = {"multipart/form-data": {"schema": schema, "encoding": {name: {"contentType": "audio/*"}}}}
    return {"requestBody": {"required": True, "content": content}}
