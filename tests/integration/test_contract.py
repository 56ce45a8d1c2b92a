"""Property tests of the OpenAPI document: generated requests, valid and invalid, against a real server."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from app.schemas.speech import SpeechParameters
from tests.integration.shared import KEY, Server, serving

BOUNDED = settings(
    max_examples=20,  # of each operation
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CHECK_NAMES = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
]


OPERATIONS_WITH_INPUT = ("GET /tts/generate", "POST /tts/generate", "POST /voices", "PUT /voices/{voice_id}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service"), MAX_TEXT_LENGTH="50", MAX_UPLOAD_MB="1") as started:
        yield started


@pytest.fixture(scope="module")
def api(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers={"X-API-Key": KEY})


def check_error_body(status: int, content: bytes) -> None:
    if status >= 400:
        error = json.loads(content)
        error.pop("error", None)  # under /v1: the same error in OpenAI's format
        assert set(error) == {"detail", "code"}
        if isinstance(error["detail"], dict):  # in ElevenLabs' format
            assert set(error["detail"]) == {"status", "message"}
            error = {"code": error["code"], **error["detail"]}
        assert all(isinstance(value, str) and value for value in error.values())


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_responses_conform_to_the_openapi_document(api: Any, mode: GenerationMode) -> None:
    checks = [CHECKS.get_one(name) for name in CHECK_NAMES]
    ran: Counter[str] = Counter()

    def check(case: Any) -> None:
        ran[case.operation.label] += 1
        response = case.call(headers={"X-API-Key": KEY})
        case.validate_response(response, checks=checks)
        check_error_body(response.status_code, response.content)

    for each in api.get_all_operations():
        operation = each.ok()
        with contextlib.suppress(Unsatisfiable):  # an operation without input has no invalid requests
            BOUNDED(given(operation.as_strategy(generation_mode=mode))(check))()
    assert {name: ran[name] for name in OPERATIONS_WITH_INPUT} == dict.fromkeys(
        OPERATIONS_WITH_INPUT, BOUNDED.max_examples
    )


def test_every_protected_route_documents_401(api: Any) -> None:
    for path, operations in api.raw_schema["paths"].items():
        for method, operation in operations.items():
            is_open = path in ("/", "/health", "/livez", "/readyz", "/ping")
            assert ("401" in operation["responses"]) != is_open, f"{method} {path}"


NAME = st.sampled_from(sorted(SpeechParameters.model_fields)) | st.text(max_size=5)
NUMBER = st.integers() | st.floats() | st.integers(-1, 3000)
VALUE = (
    st.none() | st.booleans() | NUMBER | st.text(max_size=8) | st.sampled_from(["full", "wav", "speaker_1", "1e400"])
)
NESTED = st.recursive(VALUE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3))
DOCUMENTED_STATUSES = {200, 400, 404, 413, 422}


def check_response(server: Server, method: str, query: str = "", content: bytes | None = None) -> None:
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    url = f"{server.url}/tts/generate?{query}"
    # verify: without it every request would read the certificates of all authorities, in 50 ms, for plain HTTP.
    response = httpx.request(method, url, headers=headers, content=content, timeout=30, verify=False)
    assert response.status_code in DOCUMENTED_STATUSES, response.text
    check_error_body(response.status_code, response.content)


@settings(BOUNDED, max_examples=120)
@given(st.dictionaries(NAME, VALUE.map(str), max_size=5), st.text(max_size=20))
def test_random_queries_get_documented_responses(server: Server, parameters: dict[str, str], text: str) -> None:
    query = urlencode({"text": text, **parameters}, errors="surrogatepass")
    check_response(server, "GET", query)


@settings(BOUNDED, max_examples=120)
@given(
    st.builds(
        lambda text, rest: json.dumps({"text": text, **rest}).encode(),
        st.text(max_size=20),
        st.dictionaries(NAME, VALUE, max_size=4),
    )
    | NESTED.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=50)
)
def test_random_bodies_get_documented_responses(server: Server, body: bytes) -> None:
    check_response(server, "POST", content=body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"text":' * 100_000,
        b'{"text": "Hi", "seed": ' + b"9" * 10_000 + b"}",
        b'{"text": "Hi", "synthesis_temperature": 1e400}',
        b'{"text": "Hi", "top_k": NaN}',
        b'{"text": "\\ud800"}',
        b'{"text": "Hi", "\\ud800": 1}',
        b'{"text": "Hi", "voice_id": "\\ud800"}',
        b'{"text": "Hi", "format": "\\ud800"}',
        b'{"text": "Hi", "top_k": "\\ud800"}',
        b'{"text": "Hi", "chunk_overlap_method": "\\ud800"}',
        b'{"text": "a", "text": "b", "text": 3}',
        '{"text": "Hi"}'.encode("utf-16"),
        b"\xff\xfe",
        b"\0",
    ],
)
def test_malicious_json_gets_documented_responses(server: Server, body: bytes) -> None:
    check_response(server, "POST", content=body)
