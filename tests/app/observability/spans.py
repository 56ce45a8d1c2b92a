"""Spans kept in memory, for tests."""

from __future__ import annotations

import threading

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.observability.tracing import Tracing

STAGES = ["queue", "prefill", "first frame", "encode", "send"]


class Collected:
    """Tracing whose spans are kept in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider)

    def spans(self, trace: str, count: int) -> list[ReadableSpan]:
        """The spans of a trace by their start, once there are so many."""
        pause = threading.Event()
        while len(found := [each for each in self._exporter.get_finished_spans() if trace_of(each) == trace]) < count:
            pause.wait(0.002)
        return sorted(found, key=lambda each: each.start_time or 0)


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"
