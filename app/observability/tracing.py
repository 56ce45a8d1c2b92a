"""OpenTelemetry traces: a span for each request, and one for each stage of its speech. An extra, off by default."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an extra, imported where it is used
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Attributes = Mapping[str, str | int | float]

_CLOSE_SECONDS = 3.0  # that the last spans may take to be sent


def is_installed() -> bool:
    """Whether the packages of the extra are there."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # of a parent package
        return False


class Tracing:
    """Begins traces. provider: of OpenTelemetry's SDK."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("csm-serve")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to_collector(cls, endpoint: str) -> Tracing:
        """Send spans over HTTP. endpoint: OTEL_EXPORTER_OTLP_ENDPOINT; OpenTelemetry reads its other variables."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource({"service.name": "csm-serve"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
        return cls(provider)

    def begin(self, name: str, headers: Sequence[tuple[bytes, bytes]]) -> Trace:
        """The trace of a request, which continues that of its `traceparent` and `tracestate` headers."""
        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers if key.startswith(b"trace")}
        return self._start(name, carrier, server=True)

    def resume(self, traceparent: str) -> Trace | None:
        """The trace of a request that another worker received, to add stages to; None if it has none."""
        return Trace(self, None, traceparent) if traceparent else None

    def add(self, name: str, traceparent: str, start: int, end: int, attributes: Attributes) -> None:
        """A complete span below another one. start, end: nanoseconds since 1970."""
        context = self._propagator.extract({"traceparent": traceparent})
        span = self._tracer.start_span(name, context, attributes=dict(attributes), start_time=start)
        span.end(end)

    def close(self) -> None:
        """Send the last spans; blocks for a few seconds at most."""
        closing = threading.Thread(target=self._provider.shutdown, name="close-tracing", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _start(self, name: str, carrier: Mapping[str, str], *, server: bool) -> Trace:
        from opentelemetry.trace import SpanKind

        kind = SpanKind.SERVER if server else SpanKind.INTERNAL
        span = self._tracer.start_span(name, self._propagator.extract(dict(carrier)), kind=kind)
        context = span.get_span_context()
        traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        return Trace(self, span, traceparent)


class Trace:
    """The span of one request, or of one text of a WebSocket, and the stages below it.

    traceparent: of the span, as W3C Trace Context writes it.
    """

    def __init__(self, tracing: Tracing, span: Span | None, traceparent: str) -> None:
        self._tracing = tracing
        self._span = span
        self.traceparent = traceparent
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()  # stages are timed in threads too
        self._offset = time.time_ns() - time.monotonic_ns()  # one for all stages, so that they join exactly

    def part(self, name: str) -> Trace:
        """A trace below this one, ended separately."""
        return self._tracing._start(name, {"traceparent": self.traceparent}, server=False)

    def add(self, name: str, start: float, end: float, **attributes: str | int | float) -> None:
        """A stage that is over. start, end: `time.monotonic()`."""
        self._tracing.add(name, self.traceparent, self._wall_clock(start), self._wall_clock(end), attributes)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a part of a stage: one span from its first part to its last, with the seconds spent in all of them."""
        start = time.monotonic()
        try:
            yield
        finally:
            end = time.monotonic()
            with self._lock:
                self._stages.setdefault(name, _Stage(start)).add(start, end)

    def end(self, attributes: Attributes, *, failed: bool) -> None:
        """End the span and its stages."""
        for name, stage in self._stages.items():
            self.add(name, stage.start, stage.end, **{"csm.seconds": stage.seconds, "csm.parts": stage.parts})
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attributes(attributes)
            if failed:
                self._span.set_status(StatusCode.ERROR)
            self._span.end()

    def _wall_clock(self, monotonic: float) -> int:
        """Nanoseconds since 1970 of a time of `time.monotonic()`."""
        return self._offset + round(1e9 * monotonic)


class _Stage:
    def __init__(self, start: float) -> None:
        self.start = self.end = start
        self.seconds = 0.0
        self.parts = 0

    def add(self, start: float, end: float) -> None:
        self.end = max(self.end, end)
        self.seconds += end - start
        self.parts += 1
