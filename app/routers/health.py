"""How the service is: API.md section 3. Every worker answers for all of them, from the board."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import JSONResponse

from ..observability.components import COMPONENTS, ComponentName, ComponentState
from ..pool.worker_registry import WorkerRecord
from ..state import StateDep

router = APIRouter(tags=["system"])

Health = Literal["ok", "degraded", "loading", "draining", "failed"]

_STATUS_CODES: dict[Health, int] = {"ok": 200, "degraded": 200, "loading": 202, "draining": 503, "failed": 500}


class PartHealth(BaseModel):
    """state: failed if it is in any worker. error: of the first of those; workers: the ids of all of them."""

    state: ComponentState
    error: str | None
    workers: list[str]


def parts_of(records: list[WorkerRecord]) -> dict[ComponentName, PartHealth]:
    """How the parts beside the engines are, all workers together."""
    return {part: _part_of(part, records) for part in COMPONENTS}


def _part_of(part: ComponentName, records: list[WorkerRecord]) -> PartHealth:
    failed = [each for each in records if each.parts[part].state == "failed"]
    if failed:
        return PartHealth(
            state="failed", error=failed[0].parts[part].error, workers=[each.worker_id for each in failed]
        )
    checked = any(each.parts[part].state == "ok" for each in records)
    return PartHealth(state="ok" if checked else "unchecked", error=None, workers=[])


def health_of(records: list[WorkerRecord]) -> Health:
    """One word for all workers. A pool that speaks is healthy even where a GPU or a part has failed: degraded.

    An orchestrator that restarts what answers 500 would otherwise end the speech of all the others.
    """
    states = {each.state for each in records}
    if "ready" in states:
        broken = any(part.state == "failed" for each in records for part in each.parts.values())
        return "degraded" if broken or "failed" in states else "ok"
    if states & {"starting", "restarting", "loading"}:
        return "loading"
    if "draining" in states:
        return "draining"
    return "loading" if "empty" in states else "failed"  # the master is about to fork


@router.get("/health")
async def health(service: StateDep) -> JSONResponse:
    """200 when it can speak, 202 while it loads, 500 when every engine has failed, 503 while it shuts down."""
    records = service.pool.board.records()
    word = health_of(records)
    engines = {
        each.unit: {
            "state": each.state,
            "progress": round(each.progress, 3),
            "doing": each.doing,
            "error": each.error or None,
            "engine": each.engine or None,
            "model": each.model or None,
        }
        for each in records
    }
    parts = {name: part.model_dump() for name, part in parts_of(records).items()}
    return JSONResponse({"status": word, "tts_engines": engines, "parts": parts}, _STATUS_CODES[word])


@router.get("/livez")
async def livez(service: StateDep) -> JSONResponse:
    """200 while any worker does its work, loading included; 503 when only a restart helps."""
    word = health_of(service.pool.board.records())
    return JSONResponse({"status": word}, 503 if word == "failed" else 200)


@router.get("/readyz")
async def readyz(service: StateDep) -> JSONResponse:
    """200 when a request would be spoken, by whichever worker; 503 until then, and from the signal to stop on."""
    word = "draining" if service.pool.draining else health_of(service.pool.board.records())
    return JSONResponse({"status": word}, 200 if word in ("ok", "degraded") else 503)
