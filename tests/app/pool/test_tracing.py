"""Traces across the sockets between workers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.observability.request_log import RequestRecord
from tests.app.observability.spans import STAGES, Collected, parent_of, trace_of


@pytest.mark.anyio
async def test_stages_of_another_worker_belong_to_the_requests_trace(
    workers: Callable[..., Any], job: Callable[..., Any]
) -> None:
    """Over the socket between two workers; each has its own tracing, as each process has."""
    collected, other = Collected(), Collected()
    async with workers(2) as pools, AsyncExitStack() as stack:
        pools[0].host.tracing, pools[1].host.tracing = collected.tracing, other.tracing
        records = [
            RequestRecord(str(number), "POST", "/", trace=collected.tracing.begin("POST", ())) for number in "ab"
        ]
        for record in records:  # one at each worker
            speech = await stack.enter_async_context(pools[0].dispatcher.dispatch(job(), record))
            await anext(speech)
        traces = [record.trace.traceparent.split("-") for record in records if record.trace is not None]
        spans = [*collected._exporter.get_finished_spans(), *other._exporter.get_finished_spans()]
        assert len(other._exporter.get_finished_spans()) == 3
        for _, trace, span, _ in traces:
            mine = [each for each in spans if trace_of(each) == trace]
            assert sorted(each.name for each in mine) == sorted(STAGES[:3])
            assert {parent_of(each) for each in mine} == {span}
