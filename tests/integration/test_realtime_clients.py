"""Pipecat's and LiveKit's services, unchanged: for OpenAI's Realtime protocol, and for ElevenLabs' contexts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.app.realtime.harness import silence, speech
from tests.integration.shared import KEY, Server, serving
from tests.integration.test_realtime import models

__all__ = ["models"]  # a fixture

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]  # the warnings are theirs

TYPED, HEARD = "Hello my friend, how are you?", "What can you do?"
SENTENCES = ("Hello my friend.", "How are you today?")
SENTENCES_SECONDS = sum(map(len, SENTENCES)) * 0.08  # the fake engine makes 80 ms of each character
TURN = np.concatenate([silence(0.5), speech(), silence(1.2)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: str) -> Iterator[Server]:
    """It echoes what was typed or said."""
    folder = tmp_path_factory.mktemp("clients")
    with serving(folder, MODEL_PATH="fake:frame_seconds=0.01", STT_BASE_URL=models, NO_PROXY="127.0.0.1") as server:
        yield server


async def test_livekit_types_and_talks(server: Server) -> None:
    import aiohttp
    from livekit import rtc
    from livekit.agents import llm
    from livekit.plugins import openai

    async def collect(generation: Any) -> tuple[str, float]:
        text, samples = "", 0
        async for message in generation.message_stream:
            async for frame in message.audio_stream:
                samples += frame.samples_per_channel
            async for piece in message.text_stream:
                text += str(piece)
        return text, samples / 24_000

    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        model = openai.realtime.RealtimeModel(base_url=f"{server.url}/v1", api_key=KEY, http_session=http)
        session = model.session()
        errors: list[object] = []
        generations: asyncio.Queue[Any] = asyncio.Queue()
        session.on("error", errors.append)
        context = llm.ChatContext()
        context.add_message(role="user", content=TYPED)
        await session.update_chat_ctx(context)
        assert await collect(await session.generate_reply()) == (TYPED, 28 * 0.08)
        session.on("generation_created", generations.put_nowait)
        heard = np.concatenate([TURN, silence(4)])  # semantic VAD waits that long where a turn sounds unfinished
        for start in range(0, len(heard), 2400):
            piece = heard[start : start + 2400]
            session.push_audio(rtc.AudioFrame(piece.tobytes(), 24_000, 1, len(piece)))
        assert await collect(await generations.get()) == (HEARD, len(HEARD) * 0.08)
        await session.aclose()
        await model.aclose()
    assert errors == []


async def test_pipecat_types_and_talks(server: Server) -> None:
    from pipecat.frames.frames import (
        ErrorFrame,
        InputAudioRawFrame,
        LLMContextFrame,
        TranscriptionFrame,
        TTSAudioRawFrame,
        TTSStoppedFrame,
        TTSTextFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineParams, PipelineTask
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

    class Recorder(FrameProcessor):
        def __init__(self) -> None:
            super().__init__()
            self.frames: list[Any] = []
            self.stopped = asyncio.Event()

        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            self.frames.append(frame)
            if isinstance(frame, TTSStoppedFrame):
                self.stopped.set()
            await self.push_frame(frame, direction)

        async def answer(self) -> tuple[str, float]:
            await self.stopped.wait()
            frames, self.frames = self.frames, []
            self.stopped.clear()
            assert not any(isinstance(frame, ErrorFrame) for frame in frames)
            text = "".join(frame.text for frame in frames if isinstance(frame, TTSTextFrame))
            samples = sum(len(frame.audio) // 2 for frame in frames if isinstance(frame, TTSAudioRawFrame))
            return text, samples / 24_000

    url = f"{server.url.replace('http', 'ws', 1)}/v1/realtime"
    service = OpenAIRealtimeLLMService(api_key=KEY, base_url=url)
    before, after = Recorder(), Recorder()
    params = PipelineParams(audio_in_sample_rate=24_000, audio_out_sample_rate=24_000)
    task = PipelineTask(Pipeline([before, service, after]), params=params)
    running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
    async with asyncio.timeout(60):
        await task.queue_frame(LLMContextFrame(LLMContext([{"role": "user", "content": TYPED}])))
        assert await after.answer() == (TYPED, 28 * 0.08)
        for start in range(0, len(TURN), 2400):
            await task.queue_frame(InputAudioRawFrame(TURN[start : start + 2400].tobytes(), 24_000, 1))
        assert await after.answer() == (HEARD, len(HEARD) * 0.08)
        assert [frame.text for frame in before.frames if isinstance(frame, TranscriptionFrame)] == [HEARD]
        await task.cancel()
        await running


# ---- ElevenLabs' multi-stream-input


async def test_livekit_speaks_in_elevenlabs_contexts(server: Server) -> None:
    import aiohttp
    from livekit.agents import tokenize
    from livekit.plugins import elevenlabs

    async def read(stream: Any) -> tuple[float, list[str]]:
        seconds, words = 0.0, []
        async for audio in stream:
            seconds += audio.frame.samples_per_channel / audio.frame.sample_rate
            words += [word.strip() for word in audio.frame.userdata.get("lk.timed_transcripts", [])]
        return seconds, words

    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        tts = elevenlabs.TTS(
            voice_id="speaker_0",
            api_key=KEY,
            base_url=f"{server.url}/v1",
            encoding="pcm_24000",
            http_session=http,
            word_tokenizer=tokenize.basic.SentenceTokenizer(min_sentence_len=1),
            auto_mode=True,
        )
        whole = [audio.frame async for audio in tts.synthesize(SENTENCES[0])]  # over HTTP
        assert sum(frame.samples_per_channel for frame in whole) == pytest.approx(len(SENTENCES[0]) * 1920, abs=480)
        interrupted = tts.stream()
        interrupted.push_text("x" * 500 + ". ")
        interrupted.push_text("And more. ")
        assert (await anext(interrupted)).frame.samples_per_channel
        await interrupted.aclose()
        streams = [tts.stream(), tts.stream()]  # over the same connection
        for stream in streams:
            for sentence in SENTENCES:
                stream.push_text(f"{sentence} ")
            stream.end_input()
        for seconds, words in await asyncio.gather(*map(read, streams)):
            assert seconds == pytest.approx(SENTENCES_SECONDS, abs=0.1)
            assert words == " ".join(SENTENCES).split()
        assert "speaker_0" in [voice.id for voice in await tts.list_voices()]
        await tts.aclose()
    assert server.log.count("multi-stream-input") >= 1


async def test_pipecat_speaks_in_elevenlabs_contexts(server: Server) -> None:
    from pipecat.frames.frames import (
        ErrorFrame,
        InterruptionFrame,
        LLMFullResponseEndFrame,
        LLMFullResponseStartFrame,
        LLMTextFrame,
        TTSAudioRawFrame,
        TTSStoppedFrame,
        TTSTextFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineParams, PipelineTask
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.services.elevenlabs.tts import ElevenLabsTTSService

    class Recorder(FrameProcessor):
        def __init__(self) -> None:
            super().__init__()
            self.frames: list[Any] = []
            self.changed = asyncio.Event()

        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            self.frames.append(frame)
            self.changed.set()
            await self.push_frame(frame, direction)

        def all(self, kind: type[Any]) -> list[Any]:
            return [frame for frame in self.frames if isinstance(frame, kind)]

        async def until(self, kind: type[Any]) -> None:
            while not self.all(kind):
                self.changed.clear()
                await self.changed.wait()

    service = ElevenLabsTTSService(
        api_key=KEY,
        url=server.url.replace("http", "ws", 1),
        settings=ElevenLabsTTSService.Settings(voice="speaker_0", stability=0.5),
    )
    recorder = Recorder()
    task = PipelineTask(Pipeline([service, recorder]), params=PipelineParams(audio_out_sample_rate=24_000))
    running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
    async with asyncio.timeout(60):
        await task.queue_frames([LLMFullResponseStartFrame(), LLMTextFrame("x" * 500 + ". "), LLMTextFrame("Then. ")])
        await recorder.until(TTSAudioRawFrame)
        await task.queue_frame(InterruptionFrame())
        await recorder.until(InterruptionFrame)
        recorder.frames.clear()
        answer = [LLMTextFrame(f"{sentence} ") for sentence in SENTENCES]
        await task.queue_frames([LLMFullResponseStartFrame(), *answer, LLMFullResponseEndFrame()])
        await recorder.until(TTSStoppedFrame)
        assert recorder.all(ErrorFrame) == []
        assert [frame.text.strip() for frame in recorder.all(TTSTextFrame)] == " ".join(SENTENCES).split()
        samples = sum(len(frame.audio) // 2 for frame in recorder.all(TTSAudioRawFrame))
        assert samples / 24_000 == pytest.approx(SENTENCES_SECONDS, abs=0.1)
        await task.cancel()
        await running
