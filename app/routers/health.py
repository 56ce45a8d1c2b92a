"""Health, liveness and readiness (API.md section 3). Each worker answers for all of them, from the worker registry."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel
from starlette.responses import JSONResponse

from ..observability.components import COMPONENTS, ComponentName, ComponentState
from ..pool.engine_loader import FALLBACKS
from ..pool.worker_registry import WorkerRecord
from ..state import StateDep
from .realtime import RealtimeDep

router = APIRouter(tags=["system"])

Health = Literal["ok", "degraded", "loading", "draining", "failed"]

_STATUS_CODES: dict[Health, int] = {"ok": 200, "degraded": 200, "loading": 202, "draining": 503, "failed": 500}
_PING_CODES: dict[Health, int] = {"ok": 200, "degraded": 200, "loading": 204, "draining": 503, "failed": 503}


class ComponentHealth(BaseModel):
    """state: failed if it failed in any worker. error: of the first of those. workers: the ids of all of them."""

    state: ComponentState
    error: str | None
    workers: list[str]


def components_of(records: list[WorkerRecord]) -> dict[ComponentName, ComponentHealth]:
    """The health of the components beside the engines, over all workers."""
    return {name: _component_of(name, records) for name in COMPONENTS}


def _component_of(name: ComponentName, records: list[WorkerRecord]) -> ComponentHealth:
    failed = [each for each in records if each.components[name].state == "failed"]
    if failed:
        return ComponentHealth(
            state="failed", error=failed[0].components[name].error, workers=[each.worker_id for each in failed]
        )
    checked = any(each.components[name].state == "ok" for each in records)
    return ComponentHealth(state="ok" if checked else "unchecked", error=None, workers=[])


def health_of(records: list[WorkerRecord]) -> Health:
    """The health of all workers together, by what their engines can do.

    A pool that can speak despite a failed GPU or component is degraded. It must not be failed: an orchestrator that
    restarts on status 500 would abort the streams of the other workers.
    """
    states = {each.state for each in records if each.has_engine}
    if "ready" in states:
        broken = any(component.state == "failed" for each in records for component in each.components.values())
        return "degraded" if broken or any(each.state == "failed" for each in records) else "ok"
    if states & {"starting", "restarting", "loading"}:
        return "loading"
    if "draining" in states:
        return "draining"
    return "loading" if "empty" in states else "failed"  # empty: the master is about to fork the worker


@router.get("/health")
async def health(state: StateDep, conversations: RealtimeDep) -> JSONResponse:
    """200 if any worker is ready, 202 while loading, 500 if every engine has failed, 503 while shutting down."""
    records = state.pool.registry.records()
    status = health_of(records)
    engines = {
        each.unit: {
            "state": each.state,
            "progress": round(each.progress, 3),
            "doing": each.doing,
            "error": each.error or None,
            "engine": each.engine or None,
            "model": each.model or None,
            "clones_voices": each.engine not in FALLBACKS if each.engine else None,
        }
        for each in records
        if each.has_engine
    }
    components = {name: component.model_dump() for name, component in components_of(records).items()}
    body = {
        "status": status,
        "tts_engines": engines,
        "stt": conversations.transcriber.name,
        "components": components,
    }
    return JSONResponse(body, _STATUS_CODES[status])


@router.get("/livez")
async def livez(state: StateDep) -> JSONResponse:
    """200 while any worker works or loads; 503 if only a restart helps."""
    status = health_of(state.pool.registry.records())
    return JSONResponse({"status": status}, 503 if status == "failed" else 200)


@router.get("/readyz")
async def readyz(state: StateDep) -> JSONResponse:
    """200 if any worker would accept a request; 503 until then, and from the shutdown signal on."""
    status: Health = "draining" if state.pool.draining else health_of(state.pool.registry.records())
    return JSONResponse({"status": status}, 200 if status in ("ok", "degraded") else 503)


@router.get(
    "/ping",
    response_class=Response,
    responses={
        200: {"description": "Ready."},
        204: {"description": "Starting: not ready yet."},
        503: {"description": "Failed or shutting down."},
    },
)
async def ping(state: StateDep) -> Response:
    """The probe of RunPod's load balancer: 200 if any worker would accept a request, 204 until then.

    503 once every engine has failed, and from the shutdown signal on. The body is empty.
    """
    status: Health = "draining" if state.pool.draining else health_of(state.pool.registry.records())
    return Response(status_code=_PING_CODES[status])
