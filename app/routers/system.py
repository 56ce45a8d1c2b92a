"""What a person or a monitor wants to know of the whole service: API.md section 3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from ..audio.thread_pool import in_pool
from ..observability.components import ComponentName
from ..observability.system_status import Cpu, Gpu
from ..schemas.speech import ErrorBody
from ..state import StateDep
from .health import PartHealth, parts_of

_writing = ThreadPoolExecutor(1, thread_name_prefix="metrics")

router = APIRouter(tags=["system"], responses={401: {"model": ErrorBody}})


class WorkerStatus(BaseModel):
    """engine: what it is called once it is ready; null before."""

    worker_id: str
    pid: int
    gpu: str | None
    engine: str | None
    state: str
    active: int
    capacity: int
    queued: int


class SystemStatus(BaseModel):
    """gpu: the first of gpus; null on a machine without one. parts: what there is beside the engines."""

    cpu: Cpu
    gpu: Gpu | None
    gpus: list[Gpu]
    workers: list[WorkerStatus]
    parts: dict[ComponentName, PartHealth]


@router.get("/system-status")
async def system_status(service: StateDep) -> SystemStatus:
    """Processor, memory, GPUs and workers. Figures of the machine are at most half a second old."""
    gpus = await service.system_monitor.gpus()
    records = service.pool.board.records()
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
        cpu=service.system_monitor.cpu(),
        gpu=gpus[0] if gpus else None,
        gpus=gpus,
        workers=workers,
        parts=parts_of(records),
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, service: StateDep) -> Response:
    """Metrics of all workers together, for Prometheus."""
    accept = request.headers.get("accept", "")
    text, media_type = await in_pool(_writing, lambda: service.metrics.render(accept))
    return Response(text, headers={"Content-Type": media_type})
