"""One replica: the application of one machine's worker, with the engine in this process."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from app.access.key_metrics import KeyMetrics
from app.observability.logs import configure_logging
from app.pool.assignment import WorkerAssignment, apply_worker_environment
from app.pool.watchdog import Watchdog
from app.settings import Settings
from app.settings_loader import load_settings

from .message_limit import MessageLimit
from .metrics import ClusterMetrics, Families, families
from .recent_voices import RecentVoices
from .request_id import WithoutRequestId

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.access.api_keys import ApiKey
    from app.state import AppState

_log = logging.getLogger(__name__)

_LOADING_CHECK_SECONDS = 0.1


class EngineFailed(Exception):
    """The engine of this replica cannot load, hangs or broke: Serve starts another replica."""


class SpeechReplica:
    """A worker without a pool: placement, restarts and scaling are Serve's.

    settings: None reads the environment of this node.

    Its registry has one record, its own, in private memory. Serve routes requests to a replica once `check_health`
    has returned, so an update replaces a replica only when the new one speaks.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        configure_logging(self.settings)
        gpus = ray.get_gpu_ids()
        gpu = str(gpus[0]) if gpus else None
        self.name = str(serve.get_replica_context().replica_id.unique_id)
        self.assignment = WorkerAssignment(gpu=gpu, name=self.name)
        apply_worker_environment(self.assignment, os.environ)
        self._voices = RecentVoices()
        self._state: AppState | None = None
        self._watchdog: Watchdog | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        from app.main import create_app  # here: it imports the engine, which reads the variables set above

        application = create_app(self.settings, self.assignment, observers=[self._voices])
        application.add_middleware(MessageLimit, limit=self.settings.json_limit)
        application.add_middleware(WithoutRequestId)
        state: AppState = application.state.service
        state.metrics.render_all = ClusterMetrics(serve.get_replica_context(), self.name, state.metrics).render
        self._state = state
        self._watchdog = Watchdog(
            state.host,
            start_seconds=self.settings.start_timeout_seconds,
            engine_seconds=self.settings.engine_timeout_seconds,
            report_failure=state.pool.report_failure,
        )
        self._watchdog.start()  # it also ends a process whose event loop hangs
        return application

    @property
    def state(self) -> AppState:
        assert self._state is not None, "Serve builds the application before it calls anything else"
        return self._state

    # ---- called by Serve

    async def check_health(self) -> None:
        """Wait until the engine is loaded. Raises EngineFailed."""
        host = self.state.host
        while host.status().state in ("loading", "restarting"):
            await asyncio.sleep(_LOADING_CHECK_SECONDS)
        status = host.status()
        if status.state == "failed":
            raise EngineFailed(f"the engine of replica {self.name} has failed: {status.error}")

    async def record_routing_stats(self) -> dict[str, Any]:
        """What `cluster.router` knows of this replica."""
        capacity, active, queued = self.state.host.load()
        return {"at": time.time(), "capacity": capacity, "busy": active + queued, "voices": self._voices.ids()}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `cluster.autoscaling` decides by."""
        capacity, active, queued = self.state.host.load()
        return {"slots": capacity, "busy_slots": active + queued}

    # ---- called by other replicas and by `csm-serve cluster status`

    async def own_metrics(self, key: ApiKey | None) -> tuple[str, Families]:
        """The name of this replica and its own metrics, with those of keys that this one may see."""
        state = self.state
        keys = KeyMetrics(state.pool.dispatcher.limiter, state.keys.visible_to(key))
        return self.name, await asyncio.to_thread(families, state.metrics, keys)

    async def describe(self) -> dict[str, Any]:
        """State and load, as in /system-status."""
        record = self.state.pool.registry.record(0)
        return {
            "replica": self.name,
            "node": ray.get_runtime_context().get_node_id(),
            "pid": record.pid or os.getpid(),
            "gpu": record.gpu,
            "engine": record.engine,
            "state": record.state,
            "active": record.active,
            "capacity": record.capacity,
            "queued": record.queued,
        }

    def __del__(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
