"""Engine host: has this worker's engine loaded in a thread, and provides it once it is ready."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from engine import Codes, Engine, EngineError, SpeechRequest, SpeechStream, VoicePrompt, load_engine

from ..errors import Busy, ServiceError, Unavailable, UnknownVoice
from ..lexicon_file import LexiconFile
from ..observability.components import Components
from ..observability.tracing import Tracing
from ..schemas.speech import SpeechJob
from ..settings import DEFAULT_MODEL, Settings
from ..voices.speakers import SpeakerVoices, speaker_number
from ..voices.store import Voice, VoiceStore
from .admission import Admission
from .assignment import WorkerAssignment
from .cast import distinct_speakers
from .engine_loader import FALLBACKS, EngineLoader, Loader
from .worker_registry import RestartDelay

_log = logging.getLogger(__name__)

DEFAULT_SPEAKER = "speaker_0"
_LOADED = 0.8  # share of the start's progress for loading the model; the rest is for voices


@dataclass(frozen=True)
class HostStatus:
    """The state of the engine.

    restarting: it waits before it loads, since the last worker crashed. progress: from 0 to 1.
    error: why it failed.
    """

    state: Literal["restarting", "loading", "ready", "failed", "closed"]
    progress: float = 0.0
    doing: str = ""
    error: str | None = None
    engine: str | None = None  # its name, once it is ready
    model: str | None = None  # the name of the model, once it is ready


@dataclass(frozen=True)
class ResolvedVoice:
    """A voice prompt (None: the engine has voices of its own) and a speaker number."""

    voice: VoicePrompt | None
    speaker: int

    @property
    def built_in(self) -> int | None:
        """The number of a speaker of the model's own; None for a recording."""
        return self.speaker if self.voice is None else self.voice.speaker


@dataclass(frozen=True)
class StartedSpeech:
    """The stream of a job.

    fingerprint: of the engine, the recording and the lexicon file that the job was resolved to on this worker. Where it
        is equal on another worker, the same job and seed give the same audio there.
    """

    stream: SpeechStream
    fingerprint: str


@dataclass(frozen=True)
class _ReadyEngine:
    """A loaded engine with its admission and its speakers.

    fingerprint: of its weights. Engines of equal fingerprints speak alike.
    """

    engine: Engine
    admission: Admission
    speakers: SpeakerVoices | None  # None: the engine has voices of its own
    fingerprint: str


class EngineHost:
    """Loads the engine in a thread, so that /health responds immediately.

    loader: builds an engine from a config.
    components: state of what this worker runs beside the engine.
    on_change: called, from any thread, when `status` or `load` have changed.
    on_voice_encoded: called, from any thread, for each voice on disk that was encoded ahead of its first request.
    tracing: of the stages of speech; None while it is off.
    check_components: called from the loading thread before the engine is ready.
    """

    def __init__(
        self,
        settings: Settings,
        assignment: WorkerAssignment,
        voices: VoiceStore,
        loader: Loader = load_engine,
        components: Components | None = None,
    ) -> None:
        self.worker_id = assignment.worker_id
        self._settings = settings
        self._voices = voices
        self._lexicon_file = LexiconFile(settings.lexicon)
        self._fast_start = settings.fast_start == "on"
        self._loader = EngineLoader(settings, assignment, loader)
        self.on_change: Callable[[], None] = lambda: None
        self.on_voice_encoded: Callable[[], None] = lambda: None
        self.tracing: Tracing | None = None
        self.check_components: Callable[[], None] = lambda: None
        self.components = components or Components()
        self._status = HostStatus("loading", doing="starting")
        self._progress_at = time.monotonic()  # when loading last made progress
        self._ready_engine: _ReadyEngine | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()  # orders the end of loading and close()
        self._thread: threading.Thread | None = None
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare-voice")

    # ---- state

    def status(self) -> HostStatus:
        """A snapshot, without blocking. An engine that broke after it was ready counts as failed."""
        status, ready = self._status, self._ready_engine
        if status.state == "ready" and ready is not None:
            error = ready.engine.status().error
            if error is not None:
                return HostStatus("failed", 1.0, "broken", error, status.engine, status.model)
        return status

    def load(self) -> tuple[int, int, int]:
        """(slots, active slots, queued requests); zeros until the engine is ready."""
        ready = self._ready_engine
        return (0, 0, 0) if ready is None else (ready.engine.slots, ready.admission.active, ready.admission.queued)

    def stalled_seconds(self) -> float:
        """How long loading, or a running request, has made no progress."""
        if self._status.state == "loading":
            return time.monotonic() - self._progress_at
        ready = self._ready_engine
        return 0.0 if ready is None else ready.engine.status().stalled_seconds

    @property
    def broken(self) -> bool:
        """The engine was ready and broke: only a new process helps."""
        ready = self._ready_engine
        return ready is not None and ready.engine.status().error is not None

    @property
    def engine(self) -> Engine:
        """Raises Unavailable unless it is ready."""
        return self._require_ready().engine

    @property
    def admission(self) -> Admission:
        """Raises Unavailable unless the engine is ready."""
        return self._require_ready().admission

    def resolve_voice(self, voice_id: str | None) -> ResolvedVoice:
        """Look up a voice by its id; None: speaker 0. Blocks: call it in a thread.

        Raises UnknownVoice, Unavailable, and EngineError if the voice of a speaker cannot be generated.
        """
        ready, voice_id = self._require_ready(), voice_id or DEFAULT_SPEAKER
        try:
            prompt = self._voices.get(voice_id).prompt
            return ResolvedVoice(prompt, prompt.speaker or 0)
        except UnknownVoice:
            speaker = speaker_number(voice_id)
            if speaker is None:
                raise
        return ResolvedVoice(None if ready.speakers is None else ready.speakers.get(speaker), speaker)

    def prepare_voice(self, voice_id: str) -> None:
        """Encode a voice ahead of its first request, in a thread. Raises RuntimeError if there is no thread for it."""
        self._preparing.submit(self._prepare_voice, voice_id)

    def _prepare_all_voices(self) -> None:
        """What a fast start has left for later: the voice of speaker 0, and those on disk."""
        for voice_id in (DEFAULT_SPEAKER, *self._voices.ids()):
            if self._closing.is_set():
                return
            self._prepare_voice(voice_id)

    def _prepare_voice(self, voice_id: str) -> None:
        try:
            resolved = self.resolve_voice(voice_id)
            if resolved.voice is not None:
                self.engine.prepare_voice(resolved.voice, resolved.speaker)
                self.on_voice_encoded()
        except (EngineError, ServiceError) as error:
            if not self._closing.is_set():
                _log.warning("voice %s was not prepared ahead of its first request: %s", voice_id, error)
        except Exception:
            _log.exception("voice %s was not prepared ahead of its first request", voice_id)

    def encode(self, recording: VoicePrompt) -> Codes | None:
        """The codes of a recording, to be a segment of a history. Blocks: call it in a thread.

        None if the engine has no codec. Raises Unavailable, EngineError.
        """
        return self._require_ready().engine.encode(recording)

    def start_speech(self, job: SpeechJob) -> StartedSpeech:
        """Start a job: look up its voice and read its text up to the first chunk. Blocks: call it in a thread.

        Raises UnknownVoice, Unavailable and EngineError.
        """
        if job.turn_voices:
            return self._start_dialogue(job)
        voice = job.request.voice
        resolved = self.resolve_voice(job.voice_id) if voice is None else ResolvedVoice(voice, voice.speaker or 0)
        # A recording that the job brings is the same on every worker.
        recording = "" if voice is not None or resolved.voice is None else resolved.voice.key
        return self._begin(replace(job.request, voice=resolved.voice, speaker=resolved.speaker), recording)

    def _start_dialogue(self, job: SpeechJob) -> StartedSpeech:
        names = list(dict.fromkeys(job.turn_voices))
        voices = [self.resolve_voice(name) for name in names]
        speakers = dict(zip(names, distinct_speakers([each.built_in for each in voices]), strict=True))
        recordings = {name: each.voice for name, each in zip(names, voices, strict=True)}
        turns = tuple(
            replace(turn, speaker=speakers[name], voice=recordings[name])
            for turn, name in zip(job.request.turns, job.turn_voices, strict=True)
        )
        keys = "".join(each.key for each in recordings.values() if each is not None)
        return self._begin(replace(job.request, turns=turns), keys)

    def _begin(self, request: SpeechRequest, recordings: str) -> StartedSpeech:
        """recordings: the keys of those that were looked up here."""
        ready = self._require_ready()
        lexicon = self._lexicon_file.with_entries(request.lexicon)
        stream = ready.engine.stream(replace(request, lexicon=lexicon))
        return StartedSpeech(stream, f"{ready.fingerprint} {recordings} {self._lexicon_file.version}")

    def _require_ready(self) -> _ReadyEngine:
        status, ready = self.status(), self._ready_engine
        if status.state == "ready" and ready is not None:
            return ready
        if status.state in ("loading", "restarting"):
            raise Unavailable(f"the engine is starting ({status.progress:.0%}, {status.doing}): try again soon")
        if status.state == "closed":
            raise Unavailable("this worker is shutting down: try again soon", code="draining")
        raise Unavailable(f"the engine of this worker has failed: {status.error}", code="engine_failed")

    # ---- start and close

    def start(self, on_ready: Callable[[], None] | None = None, delay: RestartDelay | None = None) -> None:
        """Begin to load, after the delay if there is one. on_ready: called from the loading thread."""
        if delay is not None:
            self._status = HostStatus(delay.state, doing="waiting to restart", error=delay.error)
        self._thread = threading.Thread(target=self._load, args=(on_ready, delay), name="load-engine", daemon=True)
        self._thread.start()

    def stop_admitting(self) -> None:
        """Admit no more requests and refuse those that wait; running streams go on."""
        if (ready := self._ready_engine) is not None:
            ready.admission.close()

    def close(self) -> None:
        """Stop the engine and wait for it. One that is still loading is closed once it is loaded."""
        self._closing.set()
        with self._lock:
            self._status = HostStatus("closed")
            ready, self._ready_engine = self._ready_engine, None
        if ready is not None:
            ready.engine.close()

    def _report(self, progress: float, doing: str) -> None:
        status = HostStatus("loading", round(min(max(progress, 0.0), 1.0), 3), doing)
        with self._lock:
            if self._status.state != "loading" or status == self._status:
                return
            self._status, self._progress_at = status, time.monotonic()
        self.on_change()

    def _load(self, on_ready: Callable[[], None] | None, delay: RestartDelay | None) -> None:
        if delay is not None:
            if self._closing.wait(delay.seconds):
                return
            with self._lock:
                if self._status.state != "closed":
                    self._status, self._progress_at = HostStatus("loading", doing="starting"), time.monotonic()
        try:
            engine, model = self._loader.load(self._report_loading)
            try:
                ready = self._prepare(engine)
            except BaseException:
                engine.close()
                raise
        except Exception as error:  # of any kind: /health reports it
            expected = isinstance(error, EngineError | ServiceError)
            _log.error("the engine cannot start: %s", error, exc_info=not expected)
            with self._lock:
                if self._status.state == "loading":
                    self._status = HostStatus("failed", self._status.progress, "failed", str(error) or repr(error))
            self.on_change()
            return
        with self._lock:
            if closed := self._status.state == "closed":
                pass
            else:
                self._ready_engine = ready
                self._status = HostStatus("ready", 1.0, "ready", engine=engine.name, model=model)
        if closed:
            engine.close()
            return
        self.on_change()
        _log.info("ready: engine %s with %d slots", engine.name, engine.slots)
        if on_ready is not None:
            on_ready()
        if self._fast_start:
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                self._preparing.submit(self._prepare_all_voices)

    def _report_loading(self, share: float, what: str) -> None:
        self._report(share * _LOADED, what)

    def _prepare(self, engine: Engine) -> _ReadyEngine:
        """Generate the voice of speaker 0 and encode the voices on disk, unless that is for later; check components."""
        settings = self._settings
        speakers = None
        fingerprint = str(engine.status().detail.get("fingerprint") or settings.model_path or DEFAULT_MODEL)
        if engine.name == "csm":
            speakers = SpeakerVoices(
                engine, settings.voices_dir / ".speakers", fingerprint, self.components.reporter("speaker_voices")
            )
            if not self._fast_start:
                self._report(_LOADED, f"generating the voice of {DEFAULT_SPEAKER}")
                speakers.get(0)
        elif engine.name in FALLBACKS:
            _log.warning("%s does not clone: it speaks a recording in the nearest of its own voices", engine.name)
        if not self._fast_start:
            self._encode_voices(engine)
        self.check_components()
        admission = Admission(
            engine.slots, settings.max_queued_requests, settings.queue_timeout_seconds, self.on_change
        )
        return _ReadyEngine(engine, admission, speakers, fingerprint)

    def _encode_voices(self, engine: Engine) -> None:
        count, usable, failed = len(self._voices.ids()), 0, 0
        for done, (voice_id, voice) in enumerate(self._all_voices()):
            self._report(_LOADED + (1 - _LOADED) * min(done / max(count, 1), 1.0), f"encoding voice {voice_id}")
            try:
                if isinstance(voice, ServiceError):
                    raise voice
                engine.prepare_voice(voice.prompt)
                usable += 1
                self.on_voice_encoded()
            except (EngineError, ServiceError) as error:
                failed += 1
                _log.warning("voice %s is skipped: %s", voice_id, error)
        if not failed:
            _log.info("%d voices encoded", usable)
        elif usable:
            _log.warning("%d of %d voices encoded: see the lines above for the others", usable, usable + failed)
        else:
            _log.error("none of %d voices could be encoded: see the lines above", failed)

    def _all_voices(self) -> Iterator[tuple[str, Voice | ServiceError]]:
        """The voices on disk; none if uploads keep the decoders busy: each is then decoded at its first request."""
        try:
            yield from self._voices.load_all()
        except Busy as error:
            _log.warning("voices are not encoded at the start: %s", error)
