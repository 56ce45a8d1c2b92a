"""How the service is: API.md section 3."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from ..service import TheService

router = APIRouter(tags=["system"])

_STATUS_CODES = {"ready": 200, "loading": 202, "failed": 500, "closed": 503}


@router.get("/health")
async def health(service: TheService) -> JSONResponse:
    """200 when it can speak, 202 while it loads, 500 when its engine has failed."""
    status = service.host.status()
    unit = {
        "state": status.state,
        "progress": status.progress,
        "doing": status.doing,
        "error": status.error,
        "engine": status.engine,
    }
    return JSONResponse(
        {
            "status": "ok" if status.state == "ready" else status.state,
            "tts_engines": {service.place.unit: unit},
        },
        _STATUS_CODES[status.state],
    )


@router.get("/livez")
async def livez(service: TheService) -> JSONResponse:
    """200 while the process does its work, loading included; 503 when only a restart helps."""
    state = service.host.status().state
    return JSONResponse({"status": state}, 503 if state in ("failed", "closed") else 200)


@router.get("/readyz")
async def readyz(service: TheService) -> JSONResponse:
    """200 when a request would be spoken, 503 until then."""
    state = service.host.status().state
    return JSONResponse({"status": state}, 200 if state == "ready" else 503)
