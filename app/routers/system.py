"""System status as JSON and Prometheus metrics, of all workers together (API.md section 3)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from ..audio.thread_pool import run_in_executor
from ..observability.components import ComponentName
from ..observability.system_status import Cpu, Gpu
from ..schemas.errors import error_responses
from ..state import StateDep
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


class SystemStatus(BaseModel):
    """gpu: the first of gpus; null on a machine without one. components: what there is beside the engines."""

    cpu: Cpu
    gpu: Gpu | None
    gpus: list[Gpu]
    workers: list[WorkerStatus]
    components: dict[ComponentName, ComponentHealth]


@router.get("/system-status")
async def system_status(state: StateDep) -> SystemStatus:
    """CPU, memory, GPUs and workers. Measurements of the machine are at most half a second old."""
    gpus = await state.system_monitor.gpus()
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
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, state: StateDep) -> Response:
    """Prometheus metrics of all workers together."""
    accept = request.headers.get("accept", "")
    text, media_type = await run_in_executor(_metrics_executor, lambda: state.metrics.render(accept))
    return Response(text, headers={"Content-Type": media_type})
