"""System status as JSON and Prometheus metrics, of all workers together (API.md section 3)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from ..access.api_keys import ApiKey
from ..access.key_metrics import KeyMetrics
from ..audio.thread_pool import run_in_executor
from ..observability.components import ComponentName
from ..observability.request_log import record_of
from ..observability.system_status import Cpu, Gpu
from ..schemas.errors import error_responses
from ..state import AppState, StateDep
from .health import ComponentHealth, components_of

_metrics_executor = ThreadPoolExecutor(1, thread_name_prefix="metrics")

router = APIRouter(tags=["system"], responses=error_responses(401))


class WorkerStatus(BaseModel):
    """engine: its name once it is ready; null before, and for a process of HTTP_WORKERS, which has no slots either."""

    worker_id: str
    pid: int
    gpu: str | None
    engine: str | None
    state: str
    active: int
    capacity: int
    queued: int


class KeyStatus(BaseModel):
    """name: api_key_1 and so on for those of API_KEY. slots: that its requests wait for or hold.

    requests, audio_seconds, refused (by limit): of this machine, since the service started.
    """

    name: str
    weight: float
    limits: dict[str, int]
    slots: int
    requests: int
    audio_seconds: float
    refused: dict[str, int]


class SystemStatus(BaseModel):
    """gpu: the first of gpus; null on a machine without one. components: what there is beside the engines.

    keys: all of them for a key of API_KEY; for a key of API_KEYS_FILE itself alone.
    """

    cpu: Cpu
    gpu: Gpu | None
    gpus: list[Gpu]
    workers: list[WorkerStatus]
    components: dict[ComponentName, ComponentHealth]
    keys: list[KeyStatus]


@router.get("/system-status")
async def system_status(request: Request, state: StateDep) -> SystemStatus:
    """CPU, memory, GPUs and workers. Measurements of the machine are at most half a second old."""
    gpus = await state.system_monitor.gpus()
    visible = state.keys.visible_to(record_of(request.scope).key)
    keys = await run_in_executor(_metrics_executor, lambda: [_key_status(state, each) for each in visible])
    records = state.pool.registry.records()
    workers = [
        WorkerStatus(
            worker_id=each.worker_id,
            pid=each.pid,
            gpu=each.gpu,
            engine=each.engine or None,
            state=each.state,
            active=each.active,
            capacity=each.capacity,
            queued=each.queued,
        )
        for each in records
    ]
    return SystemStatus(
        cpu=state.system_monitor.cpu(),
        gpu=gpus[0] if gpus else None,
        gpus=gpus,
        workers=workers,
        components=components_of(records),
        keys=keys,
    )


def _key_status(state: AppState, key: ApiKey) -> KeyStatus:
    limiter = state.pool.dispatcher.limiter
    requests, seconds, refused = limiter.totals(key)
    return KeyStatus(
        name=key.name,
        weight=key.weight,
        limits=key.limits,
        slots=limiter.active(key),
        requests=requests,
        audio_seconds=round(seconds, 2),
        refused={limit: times for limit, times in refused.items() if times},
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, state: StateDep) -> Response:
    """Prometheus metrics of all workers together."""
    accept = request.headers.get("accept", "")
    key = record_of(request.scope).key
    keys = KeyMetrics(state.pool.dispatcher.limiter, state.keys.visible_to(key))
    if state.metrics.render_all is not None:
        render = partial(state.metrics.render_all, accept, keys, key)
    else:
        render = partial(state.metrics.render, accept, keys)
    text, media_type = await run_in_executor(_metrics_executor, render)
    return Response(text, headers={"Content-Type": media_type})
