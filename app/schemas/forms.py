"""The OpenAPI description of a multipart form, which the routes read as a stream."""

from __future__ import annotations

from typing import Any

Field = dict[str, Any]  # a JSON schema


def recording_form(
    name: str,
    description: str,
    fields: dict[str, Field],
    *,
    required: tuple[str, ...] = (),
    others: bool = False,
    max_files: int = 1,
) -> dict[str, Any]:
    """`openapi_extra` of a route that takes a recording in the field `name`, and these fields.

    required: besides the recording. others: fields that are not listed are ignored, not refused. max_files: above 1
    the field is a list.
    """
    file: Field = {"type": "string", "format": "binary", "description": description}
    if max_files > 1:
        file = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": max_files}
        file |= {"minItems": 1, "description": description}
    schema: dict[str, Any] = {
        "type": "object",
        "required": [*required, name],
        "properties": {name: file, **fields},
    }
    if not others:
        schema["additionalProperties"] = False
    content = {"multipart/form-data": {"schema": schema, "encoding": {name: {"contentType": "audio/*"}}}}
    return {"requestBody": {"required": True, "content": content}}
