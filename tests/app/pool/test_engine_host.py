from __future__ import annotations

import struct
import sys
import threading
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.errors import ComponentFailed, Unavailable, UnknownVoice
from app.observability.components import ComponentStatus
from app.pool.assignment import WorkerAssignment
from app.pool.engine_host import EngineHost
from app.pool.engine_loader import DEFAULT_MODEL, SMALL_MODEL, preloaded_voices_of, with_advice
from app.pool.worker_registry import RestartDelay
from app.schemas.speech import SpeechJob
from app.settings import Settings
from app.voices.store import VoiceStore
from engine import (
    AUTO_SLOTS,
    FALLBACK_MODEL,
    HOW_TO_GET_WEIGHTS,
    KOKORO_MODEL,
    CheckpointError,
    CheckpointNotFound,
    DialogueTurn,
    Engine,
    EngineClosed,
    EngineConfig,
    EngineError,
    Progress,
    Speech,
    SpeechRequest,
    VoicePrompt,
)
from engine.fake_options import FakeOptions
from engine.testing import FakeEngine

Start = Callable[..., EngineHost]


def write_voice(folder: Path, name: str, hertz: int = 200) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with wave.open(str(folder / f"{name}.wav"), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<h", (n * hertz) % 20_000 - 10_000) for n in range(36_000)))


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    hosts: list[EngineHost] = []

    def begin(loader: Callable[[EngineConfig, Progress], Engine], **changes: object) -> EngineHost:
        changed = settings.model_copy(update={"model_path": None, **changes})
        voices = VoiceStore(changed.preloaded_voices_dir, changed.voices_dir)
        host = EngineHost(changed, WorkerAssignment(), voices, loader)
        hosts.append(host)
        host.start()
        assert host._thread is not None
        host._thread.join(60)
        return host

    yield begin
    for host in hosts:
        host.close()


def csm(config: EngineConfig, progress: Progress) -> Engine:
    return FakeEngine(config.slots, FakeOptions(name="csm"))


def fallback_only(config: EngineConfig, progress: Progress) -> Engine:
    if config.model != FALLBACK_MODEL:
        raise CheckpointNotFound("no access to the hub")
    return FakeEngine(config.slots, FakeOptions(name=FALLBACK_MODEL))


def test_settings_become_the_engine_config(start: Start) -> None:
    configs: list[EngineConfig] = []

    def load(config: EngineConfig, progress: Progress) -> Engine:
        configs.append(config)
        return FakeEngine(config.slots)

    start(load, dtype="float16", device="cpu", depth_weights="int8")
    (config,) = configs
    assert (config.model, config.device, config.dtype, config.slots) == (DEFAULT_MODEL, "cpu", "float16", 2)
    assert (config.audio_queue_slices, config.depth_weights) == (5, "int8")


def test_missing_weights_use_the_fallback_and_log_how_to_get_them(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    host = start(fallback_only)
    assert host.status().engine == FALLBACK_MODEL
    assert all(word in caplog.text for word in ("no access to the hub", "MODEL_PATH", "HF_TOKEN", "sesame/csm-1b"))
    assert caplog.text.index("make serve MODEL=unsloth/csm-1b") < caplog.text.index("HF_TOKEN")
    resolved = host.resolve_voice("speaker_7")
    assert (resolved.voice, resolved.speaker) == (None, 7)


def test_the_neural_voice_is_used_before_espeak(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    def load(config: EngineConfig, progress: Progress) -> Engine:
        if config.model == DEFAULT_MODEL:
            raise CheckpointNotFound("no access to the hub")
        return FakeEngine(config.slots, FakeOptions(name=config.model))

    def load_damaged(config: EngineConfig, progress: Progress) -> Engine:
        if config.model == KOKORO_MODEL:
            raise CheckpointError("a package is missing")
        return load(config, progress)

    hosts = [start(load), start(load_damaged), start(load, fallback_engine=FALLBACK_MODEL)]
    names = [KOKORO_MODEL, FALLBACK_MODEL, FALLBACK_MODEL]
    assert [(host.status().engine, host.status().model) for host in hosts] == list(zip(names, names, strict=True))
    assert caplog.text.count("HF_TOKEN") == 3  # once for each start: how to hear CSM-1B
    assert caplog.text.count("a package is missing") == 1
    assert caplog.text.count("does not clone") == 3


def test_csm_mini_is_served_by_its_name(start: Start) -> None:
    models: list[str] = []

    def load(config: EngineConfig, progress: Progress) -> Engine:
        models.append(config.model)
        return FakeEngine(config.slots, FakeOptions(name="csm"))

    assert start(load, model_path="csm-mini").status().model == "csm-mini"
    assert models == [str(SMALL_MODEL)]


@pytest.mark.parametrize("why", ["no access to the hub", f"sesame/csm-1b is gated. {HOW_TO_GET_WEIGHTS}"])
def test_the_advice_is_added_once(why: str) -> None:
    told = with_advice(why)
    assert told.startswith(why)
    assert told.count(HOW_TO_GET_WEIGHTS) == 1


def test_without_weights_and_fallback_the_engine_fails(start: Start) -> None:
    host = start(fallback_only, fallback_engine="none")
    assert host.status().state == "failed"
    assert "FALLBACK_ENGINE=none" in (host.status().error or "")
    with pytest.raises(Unavailable, match="has failed"):
        _ = host.engine


@pytest.mark.parametrize("error", [CheckpointNotFound("no such directory"), CheckpointError("a tensor is missing")])
def test_a_configured_model_is_never_replaced(start: Start, error: Exception) -> None:
    def load(config: EngineConfig, progress: Progress) -> Engine:
        raise error

    host = start(load, model_path="/weights")
    assert host.status().state == "failed"
    assert str(error) in (host.status().error or "")


def test_csm_has_one_voice_for_each_speaker(start: Start, settings: Settings) -> None:
    host = start(csm)
    folder = settings.voices_dir / ".speakers"
    assert len(list(folder.iterdir())) == 1
    default, zero, five = host.resolve_voice(None), host.resolve_voice("speaker_0"), host.resolve_voice("speaker_5")
    assert default.voice is zero.voice is not None
    assert five.voice is not None
    assert (zero.speaker, five.speaker, five.voice.speaker) == (0, 5, 5)
    assert len(list(folder.iterdir())) == 2
    other = start(csm).resolve_voice(None)
    assert other.voice is not None
    assert other.voice.key == zero.voice.key


def test_a_speech_and_a_dialogue_tell_by_which_weights_they_are_said(start: Start) -> None:
    speech = SpeechJob(SpeechRequest("Hello."), "speaker_0")
    dialogue = SpeechJob(
        SpeechRequest("", turns=(DialogueTurn("Hello."), DialogueTurn("Hi."))), None,
        turn_voices=("speaker_0", "speaker_1"),
    )  # fmt: skip

    def fingerprints(name: str) -> tuple[str, str]:
        host = start(lambda config, progress: FakeEngine(config.slots, FakeOptions(name=name)), model_path=name)
        started = [host.start_speech(job) for job in (speech, dialogue)]
        for each in started:
            each.stream.close()
        return started[0].fingerprint, started[1].fingerprint

    one, same, other = fingerprints(FALLBACK_MODEL), fingerprints(FALLBACK_MODEL), fingerprints(KOKORO_MODEL)
    assert one == same
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_voices_on_disk_are_encoded_at_start_and_invalid_ones_skipped(
    start: Start, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    write_voice(settings.preloaded_voices_dir, "amy")
    write_voice(settings.voices_dir, "bob", 300)
    (settings.voices_dir / "junk.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt , but nothing else")
    host = start(csm)
    assert host.status().state == "ready"
    assert "junk.wav is skipped" in caplog.text
    prepared = [key for key, _ in host.engine.prepared]  # type: ignore[attr-defined]
    for name in ("amy.wav", "bob.wav"):
        voice = host.resolve_voice(name).voice
        assert voice is not None
        assert voice.key in prepared
    with pytest.raises(UnknownVoice):
        host.resolve_voice("carl")


@pytest.mark.parametrize(
    ("good", "bad", "level", "summary"),
    [
        (0, 0, "INFO", "0 voices encoded"),
        (2, 0, "INFO", "2 voices encoded"),
        (1, 1, "WARNING", "1 of 2 voices encoded"),
        (0, 2, "ERROR", "none of 2 voices could be encoded"),
    ],
)
def test_the_log_counts_the_voices_that_could_not_be_encoded(
    start: Start, settings: Settings, caplog: pytest.LogCaptureFixture, good: int, bad: int, level: str, summary: str
) -> None:
    caplog.set_level("INFO")
    settings.voices_dir.mkdir()
    for number in range(good):
        write_voice(settings.voices_dir, f"good-{number}")
    for number in range(bad):
        (settings.voices_dir / f"bad-{number}.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt , but nothing else")
    start(csm)
    assert [each.levelname for each in caplog.records if each.getMessage().startswith(summary)] == [level]


def test_the_engine_becomes_ready_without_a_decoder(
    start: Start, settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    write_voice(settings.voices_dir, "amy")
    host = start(csm)
    assert host.status().state == "ready"
    assert "none of 1 voices" in caplog.text
    with pytest.raises(ComponentFailed, match="decoder"):
        host.resolve_voice("amy.wav")
    monkeypatch.undo()
    assert host.resolve_voice("amy.wav").voice is not None


def test_a_failed_speaker_voice_is_reported_until_one_succeeds(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = start(csm)
    assert host.components.statuses()["speaker_voices"] == ComponentStatus("ok")

    def fail(*_: object) -> Speech:
        raise EngineError("no memory is left")

    with monkeypatch.context() as patch:
        patch.setattr(host.engine, "generate", fail)
        with pytest.raises(EngineError):
            host.resolve_voice("speaker_5")
        assert host.resolve_voice("speaker_0").voice is not None  # one that was made before
        why = ComponentStatus("failed", "speaker_5 cannot be generated: no memory is left")
        assert host.components.statuses()["speaker_voices"] == why
    assert [each.levelname for each in caplog.records if "speaker_voices" in each.getMessage()] == ["ERROR"]
    assert host.resolve_voice("speaker_5").voice is not None
    assert host.components.statuses()["speaker_voices"] == ComponentStatus("ok")


def test_closing_while_loading_closes_the_loaded_engine(settings: Settings) -> None:
    reached, go_on = threading.Event(), threading.Event()
    made: list[FakeEngine] = []

    def load(config: EngineConfig, progress: Progress) -> Engine:
        reached.set()
        go_on.wait(60)
        made.append(FakeEngine())
        return made[0]

    settings = settings.model_copy(update={"model_path": None})
    host = EngineHost(
        settings, WorkerAssignment(), VoiceStore(settings.preloaded_voices_dir, settings.voices_dir), load
    )
    host.start()
    reached.wait(60)
    host.close()
    go_on.set()
    assert host._thread is not None
    host._thread.join(60)
    assert host.status().state == "closed"
    assert not made[0]._thread.is_alive()
    with pytest.raises(Unavailable, match="shutting down"):
        _ = host.admission


@pytest.mark.parametrize(("setting", "slots"), [(7, 7), (None, AUTO_SLOTS)])
def test_slots_come_from_the_setting_or_from_the_engine(start: Start, setting: int | None, slots: int) -> None:
    configs = []

    def load(config: EngineConfig, progress: Progress) -> Engine:
        configs.append(config.slots)
        return FakeEngine(2)

    host = start(load, concurrent_requests_per_worker=setting)
    assert configs == [slots]
    assert host.load()[0] == 2  # as many as the engine chose


def test_the_engine_config_has_the_number_of_workers(settings: Settings) -> None:
    configs = []

    def load(config: EngineConfig, progress: Progress) -> Engine:
        configs.append(config.workers)
        return FakeEngine(2)

    settings = settings.model_copy(update={"model_path": None})
    voices = VoiceStore(settings.preloaded_voices_dir, settings.voices_dir)
    host = EngineHost(settings, WorkerAssignment(workers=3), voices, load)
    host.start()
    assert host._thread is not None
    host._thread.join(60)
    host.close()
    assert configs == [3]


def test_loading_waits_for_the_restart_delay_and_closing_ends_the_wait(settings: Settings) -> None:
    def load(config: EngineConfig, progress: Progress) -> Engine:
        raise AssertionError("loaded during the delay")

    settings = settings.model_copy(update={"model_path": None})
    host = EngineHost(
        settings, WorkerAssignment(), VoiceStore(settings.preloaded_voices_dir, settings.voices_dir), load
    )
    host.start(delay=RestartDelay(3600, "restarting", "its process died"))
    assert (host.status().state, host.status().error) == ("restarting", "its process died")
    assert host.stalled_seconds() == 0
    with pytest.raises(Unavailable, match="starting"):
        _ = host.engine
    host.close()
    assert host._thread is not None
    host._thread.join(60)
    assert host.status().state == "closed"


def test_loading_without_progress_counts_as_stalled(settings: Settings) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def load(config: EngineConfig, progress: Progress) -> Engine:
        progress(0.5, "reading weights")
        reached.set()
        go_on.wait(60)
        return FakeEngine(config.slots)

    settings = settings.model_copy(update={"model_path": None})
    host = EngineHost(
        settings, WorkerAssignment(), VoiceStore(settings.preloaded_voices_dir, settings.voices_dir), load
    )
    states: list[str] = []
    host.on_change = lambda: states.append(host.status().state)
    host.start()
    reached.wait(60)
    before = host.stalled_seconds()
    while host.stalled_seconds() == before:
        pass
    go_on.set()
    assert host._thread is not None
    host._thread.join(60)
    assert host.stalled_seconds() == 0
    assert (host.load(), host.broken) == ((2, 0, 0), False)
    assert states[0] == "loading"
    assert states[-1] == "ready"
    host.close()
    assert host.load() == (0, 0, 0)


def test_csm_mini_preloads_its_own_recordings_and_other_models_the_users(settings: Settings, tmp_path: Path) -> None:
    default = Settings.model_fields["preloaded_voices_dir"].default

    def folder(model: str | None, preloaded: Path) -> Path:
        return preloaded_voices_of(settings.model_copy(update={"model_path": model, "preloaded_voices_dir": preloaded}))

    assert folder("csm-mini", default) == SMALL_MODEL / "voices"
    assert sorted(path.stem for path in folder(str(SMALL_MODEL), default).glob("*.wav")) == [
        "anna",
        "bruno",
        "clara",
        "david",
    ]
    assert folder("csm-mini", tmp_path) == tmp_path
    assert folder(None, default) == default


def test_a_fast_start_prepares_voices_once_it_is_ready(start: Start, settings: Settings) -> None:
    asked, go_on, encoded = threading.Event(), threading.Event(), threading.Semaphore(0)
    configs: list[EngineConfig] = []

    class Waiting(FakeEngine):
        def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
            asked.set()
            assert go_on.wait(60)
            super().prepare_voice(voice, speaker)

    def load(config: EngineConfig, progress: Progress) -> Engine:
        configs.append(config)
        return Waiting(config.slots, FakeOptions(name="csm"))

    write_voice(settings.voices_dir, "anna")
    host = start(load, fast_start="on")
    assert host.status().state == "ready"  # `start` waits for the loading thread
    host.on_voice_encoded = encoded.release
    assert configs[0].fast_start
    assert asked.wait(60)
    assert host.engine.generate(SpeechRequest("Hello.")).seconds > 0  # beside it
    go_on.set()
    assert all(encoded.acquire(timeout=60) for _ in ("speaker_0", "anna.wav"))


def test_closing_during_a_fast_start_is_no_warning(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    asked, closed = threading.Event(), threading.Event()

    class Closing(FakeEngine):
        def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
            asked.set()
            assert closed.wait(60)
            raise EngineClosed("the engine was closed")

    changed = settings.model_copy(update={"model_path": None, "fast_start": "on"})
    voices = VoiceStore(changed.preloaded_voices_dir, changed.voices_dir)
    host = EngineHost(
        changed, WorkerAssignment(), voices, lambda config, report: Closing(config.slots, FakeOptions(name="csm"))
    )
    host.start()
    assert asked.wait(60)
    host.close()
    closed.set()
    host._preparing.shutdown()
    assert "was not prepared" not in caplog.text
