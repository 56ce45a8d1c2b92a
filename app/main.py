"""The FastAPI application of one worker: middleware, routes and engine."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from engine import MachineLimits, load_engine, normalize

from .access.key_ring import KeyRing
from .access.limiter import KeyLimiter
from .audio.encoder_factory import check_encoders
from .audio.encoders import FORMATS
from .audio.thread_pool import THREADS, thread_pool
from .errors import ComponentFailed
from .llm.choice import choose_language_model
from .middleware import error_handlers
from .middleware.auth import ApiKeyMiddleware
from .middleware.body_limit import BodyLimit, BodyLimitMiddleware
from .observability.components import Components
from .observability.event_loop_lag import EventLoopMonitor
from .observability.metrics import Metrics
from .observability.request_log import Observer, RequestLogMiddleware
from .observability.startup_banner import curl_line, speak_line
from .observability.system_status import SystemMonitor
from .observability.tracing import Tracing
from .pool import master
from .pool.assignment import WorkerAssignment
from .pool.engine_host import EngineHost
from .pool.engine_loader import Loader, preloaded_voices_of
from .pool.http_host import HttpHost
from .pool.master import WorkerContext
from .pool.pool import Pool
from .pool.references import ReferenceResolver
from .pool.worker_gauges import worker_gauges
from .realtime.service import RealtimeService
from .reference_hosts import ReferenceHosts
from .routers import (
    dialogue,
    docs,
    elevenlabs,
    health,
    legacy,
    openai,
    page,
    realtime,
    speech,
    system,
    transcriptions,
    voices,
    websocket,
)
from .settings import Settings
from .settings_loader import ENV_FILE, load_settings
from .state import AppState
from .stt.choice import choose_transcriber
from .voices.recording_download import RecordingDownloader
from .voices.references import ReferenceVoices
from .voices.shared_store import SharedVoicesConfig, SharedVoiceStore
from .voices.store import VoiceStore

if TYPE_CHECKING:
    app: FastAPI

_log = logging.getLogger(__name__)
_MIB = 1 << 20
_CLIENT_HEADERS = [
    "X-Request-ID",
    "X-TTS-Engine",
    "X-STT-Engine",
    "X-Worker-ID",
    "X-Sample-Rate",
    "Retry-After",
    "traceresponse",
]


def create_app(
    settings: Settings | None = None,
    assignment: WorkerAssignment | None = None,
    loader: Loader = load_engine,
    tracing: Tracing | None = None,
    observers: Sequence[Observer] = (),
) -> FastAPI:
    """Build the application. Its engine begins to load at startup.

    settings, assignment: default to those of this process. Raises SettingsError.
    tracing: by default to OTEL_EXPORTER_OTLP_ENDPOINT, where that is set. observers: of its requests.
    """
    settings = settings or load_settings()
    context = master.current_context() if assignment is None else master.standalone_context(assignment)
    assignment = context.assignment
    components = Components()
    if tracing is None and settings.otel_exporter_otlp_endpoint is not None:
        tracing = Tracing.to_collector(settings.otel_exporter_otlp_endpoint)
    max_recording = int(settings.max_upload_mb * _MIB)
    store = _voice_store(settings, components, max_recording)
    metrics = Metrics(context.counters, context.index, lambda: worker_gauges(context.registry.records()))
    host: EngineHost | HttpHost = HttpHost(components)
    if assignment.has_engine:
        host = EngineHost(settings, assignment, store, loader, components=components)
        host.on_voice_encoded = metrics.voice_encoded
        host.tracing = tracing
    if assignment.serves_http:
        host.check_components = partial(_check_components, components)
    pool = Pool(context.registry, context.index, host, context.sockets, settings.queue_timeout_seconds)
    pool.dispatcher.resumes = settings.resume == "on"
    pool.dispatcher.on_resume = metrics.resumed
    keys = KeyRing(settings.keys, settings.api_keys_file)
    pool.dispatcher.limiter = _make_limiter(settings, context, metrics)
    pool.dispatcher.limiter.current = keys.current
    gpus = dict.fromkeys(each.gpu for each in context.registry.assignments if each.gpu is not None)
    system_monitor = SystemMonitor(gpus)
    service = AppState(
        settings,
        assignment,
        store,
        ReferenceResolver(
            ReferenceVoices(store.decode, max_recording),
            RecordingDownloader(ReferenceHosts.parse(settings.reference_hosts), max_recording),
        ),
        host,
        pool,
        metrics,
        system_monitor,
        EventLoopMonitor(context.counters, context.index),
        keys,
    )
    application = FastAPI(
        title="csm-serve",
        summary="Real-time speech from Sesame CSM-1B",
        docs_url=None,  # its page loads third-party scripts and cannot send a key: app/routers/docs.py
        redoc_url=None,
        redirect_slashes=False,  # the target would be built from the client's Host header
        lifespan=_lifespan,
        middleware=_middleware(settings, [metrics, *observers], keys, tracing),
    )
    application.state.service = service
    application.state.tracing = tracing
    application.state.realtime = RealtimeService(
        service, choose_language_model(settings), choose_transcriber(settings), settings.realtime_sessions_per_worker
    )
    error_handlers.install(application)
    routers = (
        speech,
        dialogue,
        websocket,
        realtime,
        transcriptions,
        legacy,
        openai,
        elevenlabs,
        voices,
        health,
        system,
        docs,
        page,
    )
    for each in routers:
        for route in each.router.routes:
            if isinstance(route, APIRoute):  # else the reference would show the function's name
                route.summary = route.description.partition("\n")[0].rstrip(".")
        application.include_router(each.router)
    return application


def _voice_store(settings: Settings, components: Components, max_recording: int) -> VoiceStore:
    """The voices of this machine, or with VOICES_URL those of all that share it."""
    report = components.reporter("voice_decoder")
    if settings.voices_url is None:
        return VoiceStore(
            preloaded_voices_of(settings),
            settings.voices_dir,
            max_upload_bytes=max_recording,
            max_seconds=settings.max_voice_seconds,
            report_decoder=report,
        )
    shared = SharedVoicesConfig(
        settings.voices_url,
        settings.voices_dir / ".shared",
        settings.storage_options,
        mirror_bytes=int(settings.voices_mirror_mb * _MIB),
        check_seconds=settings.voices_check_seconds,
        timeout=settings.voices_timeout_seconds,
    )
    return SharedVoiceStore(
        preloaded_voices_of(settings),
        shared,
        max_upload_bytes=max_recording,
        max_seconds=settings.max_voice_seconds,
        report_decoder=report,
        report_storage=components.reporter("voice_storage"),
    )


def _make_limiter(settings: Settings, context: WorkerContext, metrics: Metrics) -> KeyLimiter:
    registry, redis = context.registry, None
    if settings.rate_limit_url is not None:
        from .access.redis_limits import RedisLimits  # an extra

        redis = RedisLimits(settings.rate_limit_url.get_secret_value(), metrics.rate_limit_failed)

    def holders() -> list[str]:
        return [f"{index}.{pid}" for index, pid in enumerate(registry.pids()) if pid]

    return KeyLimiter(context.key_counts, f"{context.index}.{os.getpid()}", holders, redis)


def _middleware(
    settings: Settings, observers: Sequence[Observer], keys: KeyRing, tracing: Tracing | None
) -> list[Middleware]:
    """From the outermost on. The key is checked before any of the body is read."""
    max_recording = int(settings.max_upload_mb * _MIB)
    upload = BodyLimit(max_recording + _MIB)  # plus the multipart form
    with_recording = BodyLimit(settings.json_limit + max_recording * 4 // 3, settings.json_limit)  # in base64

    def body_limit(path: str) -> BodyLimit:
        if path in ("/voices", "/v1/voices/add", "/v1/audio/transcriptions") or path.startswith("/voices/"):
            return upload
        return with_recording if path in ("/tts/generate", "/v1/audio/speech") else BodyLimit(settings.json_limit)

    return [
        Middleware(RequestLogMiddleware, observers=observers, tracing=tracing),
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_CLIENT_HEADERS,
        ),
        Middleware(ApiKeyMiddleware, keys=keys),
        Middleware(BodyLimitMiddleware, limit=body_limit),
    ]


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    service: AppState = application.state.service
    try:
        _log_limits()
        service.event_loop_monitor.start()
        await service.pool.start(lambda: _print_banner(service))
    except Exception as error:
        application.state.start_error = error  # uvicorn does not pass it on
        raise
    try:
        yield
    finally:
        await application.state.realtime.close()
        await service.pool.close()
        await service.event_loop_monitor.close()
        service.system_monitor.close()
        await asyncio.to_thread(service.voices.close)
        if application.state.tracing is not None:
            await asyncio.to_thread(application.state.tracing.close)


def _log_limits() -> None:
    limits = MachineLimits()
    cores, memory = limits.cores(), limits.memory()
    _log.info(
        "%g cores (%s), %d MiB of memory (%s), %d encoding threads",
        round(cores.count, 2),
        cores.reason,
        memory.total >> 20,
        memory.reason,
        THREADS,
    )


def _check_components(components: Components) -> None:
    """Check all components but the voice decoder. This also loads PyAV and the text normaliser before any request."""
    normalize("1 **word**")
    check_encoders(FORMATS.values(), components)
    thread_pool.on_state = components.reporter("threads")
    with suppress(ComponentFailed):  # already reported
        thread_pool.start()


def _print_banner(service: AppState) -> None:
    if service.assignment.prints_banner:
        with_curl, without = (make(service.settings, ENV_FILE, os.environ) for make in (curl_line, speak_line))
        sys.stdout.write(f"\nReady. Paste this to make speech.wav:\n{with_curl}\nor, without curl:\n{without}\n\n")
        sys.stdout.flush()


def __getattr__(name: str) -> FastAPI:
    """Build `app.main:app` on first access, so that importing this module needs no settings."""
    if name == "app":
        globals()["app"] = built = create_app()
        return built
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
