"""The audio of one response: effects, encoding, the events that carry it, and what is measured of it."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import numpy as np

from engine import SAMPLE_RATE

from ..audio.encoders.base import Samples
from ..audio.encoders.pcm import RawPcmEncoder
from ..audio.postprocessing import make_effect
from ..audio.thread_pool import run_in_thread
from ..observability.request_log import RequestRecord
from ..observability.underruns import UnderrunMeter
from .audio_codec import create_encoder
from .conversation import Entry
from .playback import PlaybackClock
from .response_output import ResponseOutput
from .response_plan import ResponsePlan

_NOTHING: Samples = np.zeros(0, np.float32)
_INLINE_SAMPLES = 48_000  # 2 s: encoding up to this many takes less time than a switch to a thread and back


class ResponseAudio:
    """Sends samples as they are generated.

    record: its audio, underruns and seconds of speech are written here.
    playback: how much of it the client has heard. on_audio: called with what was sent.
    """

    def __init__(
        self, output: ResponseOutput, plan: ResponsePlan, watermark_key: bytes | None, record: RequestRecord
    ) -> None:
        config = plan.config.audio.output
        self.playback = PlaybackClock()
        self.on_audio: Callable[[Samples], None] = lambda samples: None
        self._output, self._latency, self._record = output, plan.latency, record
        self._encoder = create_encoder(config.format)
        self._effect = make_effect(config.speed, watermark_key)
        self._underruns = UnderrunMeter()
        self._speech_since = 0.0

    def speech_begins(self, at: float) -> None:
        """The engine speaks from now on, or has waited until then for words (time.monotonic())."""
        self._speech_since = max(self._speech_since, at)

    async def send(self, entry: Entry, samples: Samples) -> None:
        await self._send(entry, samples, last=False)

    async def flush(self, entry: Entry) -> None:
        """Send what effects and encoder hold back. Nothing follows."""
        await self._send(entry, _NOTHING, last=True)

    async def _send(self, entry: Entry, samples: Samples, *, last: bool) -> None:
        effect, encoder, record = self._effect, self._encoder, self._record

        def process() -> tuple[Samples, str]:
            out = samples
            if effect is not None:
                out = effect.flush() if last else effect.push(samples)
            data = encoder.encode(out) + (encoder.flush() if last else b"")
            return out, base64.b64encode(data).decode()

        inline = effect is None and isinstance(encoder, RawPcmEncoder) and samples.size <= _INLINE_SAMPLES
        with record.stage("encode"):
            out, audio = process() if inline else await run_in_thread(process)
        if not audio:
            return
        now = time.monotonic()
        if self._latency.first_audio is None:
            self._latency.first_audio = now
            record.first_audio_seconds = now - record.started
        self._underruns.ready(now)
        with record.stage("send"):
            await self._output.add_audio(entry, audio)
        now = time.monotonic()
        self.playback.sent(out.size / SAMPLE_RATE, now)
        self._underruns.sent(now, self.playback.sent_seconds)
        record.audio_seconds = self.playback.sent_seconds
        record.underrun_seconds = self._underruns.worst
        record.speech_seconds = (record.speech_seconds or 0.0) + now - self._speech_since
        self._speech_since = now
        self.on_audio(out)
