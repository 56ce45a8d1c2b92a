"""A gunicorn worker that notes when a request passes certain functions. Only bench.trace runs it.

The functions are wrapped when such a worker starts, so the service itself has no hooks and pays nothing.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.server.worker import ServiceWorker

TRACE_FILE = "CSM_TRACE_FILE"  # environment variable: where each traced request appends a line of JSON
PATH = "/tts/generate"


@dataclass(frozen=True)
class Step:
    """A function and what has happened when a request first enters it or, with `after`, first leaves it."""

    function: str  # module:name or module:class.name
    where: str
    label: str
    after: bool = False


_LOOP, _POOL, _ENGINE = "event loop", "thread pool", "engine"

STEPS = (
    Step("app.middleware.auth:ApiKeyMiddleware._has_key", _LOOP, "key checked", after=True),
    Step("app.routers.speech:_speech_response", _LOOP, "parameters validated"),
    Step("app.responses.streaming:SpeechResponse.__init__", _LOOP, "job made"),
    Step("app.pool.dispatcher:Dispatcher.dispatch", _LOOP, "dispatched"),
    Step("app.pool.engine_host:EngineHost.resolve_voice", _POOL, "slot reserved"),
    Step("app.pool.engine_host:EngineHost.resolve_voice", _POOL, "voice found", after=True),
    Step("engine.prompt_builder:PromptBuilder.plan", _POOL, "text begun"),
    Step("engine.prompt_builder:PromptBuilder.plan", _POOL, "first chunk read", after=True),
    Step("engine.prompt_builder:PromptBuilder.request_voice_codes", _ENGINE, "taken from the inbox"),
    Step("engine.prompt_builder:PromptBuilder._build_prompt", _ENGINE, "admitted to a row"),
    Step("engine.model_runner:ModelRunner.prefill", _ENGINE, "prompt built"),
    Step("engine.model_runner:ModelRunner.prefill", _ENGINE, "prefill launched", after=True),
    Step("engine.model_runner:ModelRunner.launch", _ENGINE, "row started"),
    Step("engine.model_runner:ModelRunner.launch", _ENGINE, "frame launched", after=True),
    Step("engine.request_state:RequestState.add_frame", _ENGINE, "frame read"),
    Step("engine.stream:AudioQueue.put", _ENGINE, "slice queued"),
    Step("engine.stream:SpeechStream.__anext__", _LOOP, "slice taken", after=True),
    Step("app.responses.streaming:_StreamWriter.write", _LOOP, "slice encoded"),
    Step("app.responses.streaming:_StreamWriter.write", _LOOP, "slice written to the socket", after=True),
)


class TracedWorker(ServiceWorker):
    """Traces one request at a time."""

    def init_process(self) -> None:
        trace = _Trace(Path(os.environ[TRACE_FILE]))
        for function in dict.fromkeys(step.function for step in STEPS):
            trace.wrap(function, [step for step in STEPS if step.function == function])
        trace.wrap_application()
        super().init_process()


class _Trace:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps: dict[Step, float] | None = None  # of the request that is traced, by time.monotonic()

    def note(self, step: Step) -> None:
        steps = self._steps
        if steps is not None:
            steps.setdefault(step, time.monotonic())

    def wrap(self, name: str, steps: list[Step]) -> None:
        module, _, path = name.partition(":")
        *parents, attribute = path.split(".")
        owner: Any = functools.reduce(getattr, parents, importlib.import_module(module))
        setattr(owner, attribute, self._noting(getattr(owner, attribute), steps))

    def _noting(self, function: Callable[..., Any], steps: list[Step]) -> Callable[..., Any]:
        before, after = ([step for step in steps if step.after is kind] for kind in (False, True))

        def note_all(these: list[Step]) -> None:
            for step in these:
                self.note(step)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def noting_async(*args: Any, **kwargs: Any) -> Any:
                note_all(before)
                result = await function(*args, **kwargs)
                note_all(after)
                return result

            return noting_async

        @functools.wraps(function)
        def noting(*args: Any, **kwargs: Any) -> Any:
            note_all(before)
            result = function(*args, **kwargs)
            note_all(after)
            return result

        return noting

    def wrap_application(self) -> None:
        """Begin a trace where the server calls the application, and write it when the application is done."""
        from fastapi import FastAPI

        application = FastAPI.__call__

        async def traced(app: FastAPI, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["path"] != PATH:
                await application(app, scope, receive, send)
                return
            self._steps = {Step("", _LOOP, "request read"): time.monotonic()}
            try:
                await application(app, scope, receive, send)
            finally:
                steps, self._steps = self._steps, None
                line = [[step.where, step.label, at] for step, at in steps.items()]
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")

        setattr(FastAPI, "__call__", traced)  # noqa: B010 - a plain assignment has another signature
