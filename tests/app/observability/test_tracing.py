"""Traces of requests, with the exporter in memory of OpenTelemetry's SDK."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.trace import StatusCode
from starlette.testclient import TestClient

from app.main import create_app
from app.observability.request_log import RequestRecord
from app.settings import Settings
from tests.app.observability.spans import STAGES, Collected, id_of, parent_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def collected() -> Collected:
    return Collected()


@pytest.fixture
def client(settings: Settings, collected: Collected) -> Iterator[TestClient]:
    app = create_app(settings, tracing=collected.tracing)
    with TestClient(app, headers={"X-API-Key": "first-key"}) as started:
        pause = threading.Event()
        while app.state.service.host.status().state != "ready":
            pause.wait(0.002)
        yield started


def test_a_request_continues_the_clients_trace_with_a_span_for_each_stage(
    client: TestClient, collected: Collected
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "my-request"}
    answer = client.post("/tts/generate", json={"text": "Hello there."}, headers=headers)
    assert answer.status_code == 200
    spans = collected.spans(TRACE, 6)
    assert sorted(each.name for each in spans) == sorted(["POST", *STAGES])
    request = next(each for each in spans if each.name == "POST")
    assert parent_of(request) == PARENT
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{id_of(request)}-01"
    assert request.attributes is not None
    assert request.attributes["csm.request_id"] == "my-request"
    assert request.attributes["csm.key"] == "api_key_1"
    assert request.attributes["http.response.status_code"] == 200
    stages = {each.name: each for each in spans if each is not request}
    assert {parent_of(each) for each in stages.values()} == {id_of(request)}
    starts = [stages[name].start_time for name in STAGES]
    assert all(start is not None for start in starts)
    assert starts == sorted(starts, key=lambda start: start or 0)
    assert stages["prefill"].end_time == stages["first frame"].start_time
    assert stages["send"].attributes is not None
    assert int(str(stages["send"].attributes["csm.parts"])) >= 3  # headers, audio, the end


def test_an_error_has_a_span_of_its_own_trace(client: TestClient, collected: Collected) -> None:
    answer = client.post("/tts/generate", json={"text": "[raise@0] Hello."})
    assert answer.status_code == 500
    trace = answer.headers["traceresponse"].split("-")[1]
    span = next(each for each in collected.spans(trace, 2) if each.name == "POST")
    assert span.parent is None
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "engine_failed"


def test_each_text_of_a_websocket_has_a_span_below_the_connections(client: TestClient, collected: Collected) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with client.websocket_connect("/ws", headers=headers) as socket:
        for _ in range(2):
            socket.send_json({"text": "Hello there."})
            while socket.receive_json()["type"] != "completion":
                pass
    spans = collected.spans(TRACE, 13)
    connection = next(each for each in spans if each.name == "WEBSOCKET")
    texts = [each for each in spans if each.name == "text"]
    assert parent_of(connection) == PARENT
    assert [parent_of(each) for each in texts] == [id_of(connection)] * 2
    for text in texts:
        assert sorted(each.name for each in spans if parent_of(each) == id_of(text)) == sorted(STAGES)
    assert socket.extra_headers is not None
    accepted = dict(socket.extra_headers)
    assert accepted[b"traceresponse"].decode() == f"00-{TRACE}-{id_of(connection)}-01"


@pytest.mark.parametrize("traceparent", ["", "00-zz", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-\xff"])
def test_a_bad_context_begins_a_new_trace(client: TestClient, traceparent: str) -> None:
    answer = client.get("/voices", headers={b"traceparent": traceparent.encode("latin-1")})
    assert answer.status_code == 200
    assert answer.headers["traceresponse"].split("-")[1] not in ("0" * 32, TRACE)


def test_polling_has_no_trace(client: TestClient) -> None:
    assert "traceresponse" not in client.get("/health").headers


def test_without_its_setting_nothing_is_imported() -> None:
    program = "import sys, app.main; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110, check=True)
    assert ran.stdout.strip() == "[]"


def test_tracing_off_costs_a_request_nothing() -> None:
    record = RequestRecord("a", "POST", "/")
    assert record.stage("send") is record.stage("encode")  # one object that does nothing
    assert record.trace is record.next_part().trace is None
