"""What MkDocs (mkdocs.yml) is given beside the pages of docs/: `make site`.

docs/ is written to be read in a checkout, where a link may lead to any file. The site holds docs/ alone: here a link to
any other file becomes that file's name. The page of the HTTP API is made from the application's OpenAPI document.
"""

from __future__ import annotations

import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from openapidocs.mk.v3 import OpenAPIV3DocumentationHandler

from app.main import create_app
from app.pool.assignment import WorkerAssignment
from app.settings import Settings

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return _OUTSIDE.sub(r"\1", markdown)


def reference() -> str:
    """The HTTP API as Markdown."""
    app = create_app(Settings(api_key="unused"), WorkerAssignment())  # type: ignore[arg-type]
    page = OpenAPIV3DocumentationHandler(_plain(app.openapi()), style="MKDOCS").write()
    return str(page).replace("# csm-serve", "# HTTP reference: csm-serve", 1)


def _plain(node: Any) -> Any:
    """The document with `anyOf: [type, null]` as the type alone, whose name and default the page then shows."""
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, dict):
        return node
    plain = {name: _plain(each) for name, each in node.items()}
    options = plain.get("anyOf", [])
    if len(options) == 2 and {"type": "null"} in options:
        plain.pop("anyOf")
        plain = next(each for each in options if each != {"type": "null"}) | plain
    return plain
