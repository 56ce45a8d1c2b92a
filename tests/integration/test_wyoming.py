"""csm-serve wyoming with Wyoming's own client, as Home Assistant uses it, over a real service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from csm_serve_client import AsyncCsmClient
from csm_serve_client.transport import Server as ServiceAddress
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeTextFormat,
    SynthesizeVoice,
)

from app.cli.wyoming import announced
from app.cli.wyoming_bridge import WyomingBridge
from tests.app.voices.recordings import recording
from tests.integration.conftest import ROOT
from tests.integration.shared import KEY, Server, serving

pytestmark = pytest.mark.anyio
SECONDS = 60.0
FRAME_BYTES = 1920 * 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("service"), MODEL_PATH="fake:frame_seconds=0.005", CONCURRENT_REQUESTS_PER_WORKER="4"
    ) as started:
        httpx.post(
            f"{started.url}/voices", headers={"X-API-Key": KEY}, files={"file": ("amy.wav", recording())}, timeout=60
        ).raise_for_status()
        yield started


@asynccontextmanager
async def bridged(url: str) -> AsyncIterator[int]:
    """A bridge to a service. Yields its port."""
    async with AsyncCsmClient(url, KEY) as client:
        bridge = WyomingBridge(client, ServiceAddress(url, KEY), "speaker_0")
        listening = await asyncio.start_server(bridge.serve, "127.0.0.1", 0)
        async with listening:
            yield listening.sockets[0].getsockname()[1]
            listening.close()
            await bridge.close()


@asynccontextmanager
async def talking(server: Server) -> AsyncIterator[AsyncTcpClient]:
    async with (
        bridged(server.url) as port,
        AsyncTcpClient("127.0.0.1", port, connect_timeout=SECONDS, read_timeout=SECONDS) as client,
    ):
        yield client


async def events_until(client: AsyncTcpClient, last: type) -> list[Event]:
    events: list[Event] = []
    while not events or not last.is_type(events[-1].type):
        event = await client.read_event()
        assert event is not None, events
        events.append(event)
    return events


def audio_of(events: list[Event]) -> bytes:
    """The audio of an answer, which begins and ends once."""
    kinds = [event.type for event in events if event.type != "synthesize-stopped"]
    assert (kinds[0], kinds[-1]) == ("audio-start", "audio-stop")
    assert set(kinds[1:-1]) <= {"audio-chunk"}
    start = AudioStart.from_event(events[0])
    assert (start.rate, start.width, start.channels) == (24_000, 2, 1)
    return b"".join(AudioChunk.from_event(each).audio for each in events if AudioChunk.is_type(each.type))


def expected(server: Server, text: str, voice_id: str = "speaker_0") -> bytes:
    query = {"text": text, "voice_id": voice_id, "format": "raw_pcm"}
    return httpx.get(f"{server.url}/tts/generate", params=query, headers={"X-API-Key": KEY}, timeout=60).content


async def test_it_tells_its_voices_and_languages(server: Server) -> None:
    async with talking(server) as client:
        await client.write_event(Describe().event())
        [event] = await events_until(client, Info)
        [program] = Info.from_event(event).tts
        assert program.supports_synthesize_streaming
        assert [voice.name for voice in program.voices] == [*(f"speaker_{n}" for n in range(4)), "amy.wav"]
        assert {tuple(voice.languages) for voice in program.voices} == {("en",)}
        await client.write_event(Ping(text="still there?").event())
        [event] = await events_until(client, Pong)
        assert Pong.from_event(event).text == "still there?"


async def test_a_text_is_spoken_in_its_voice(server: Server) -> None:
    voices = {None: "speaker_0", "amy.wav": "amy.wav", "speaker_2": "speaker_2"}
    async with talking(server) as client:
        for name, voice_id in voices.items():
            voice = SynthesizeVoice(language="en") if name is None else SynthesizeVoice(name=name)
            await client.write_event(Synthesize(text="Hello there.", voice=voice).event())
            events = await events_until(client, AudioStop)
            assert audio_of(events) == expected(server, "Hello there.", voice_id)
        for blank in ("", " \n"):
            await client.write_event(Synthesize(text=blank).event())
            assert audio_of(await events_until(client, AudioStop)) == b""
        text = 'One<break time="160ms"/>two'
        await client.write_event(Synthesize(text=text, text_format=SynthesizeTextFormat.SSML).event())
        assert audio_of(await events_until(client, AudioStop)) == expected(server, f"<speak>{text}</speak>")


async def test_a_text_is_spoken_while_it_is_written(server: Server) -> None:
    """Audio of the first sentence comes before the second is written."""
    first, second = "This is the first sentence. ", "And this is the second."
    async with talking(server) as client:
        await client.write_event(SynthesizeStart(voice=SynthesizeVoice(name="amy.wav")).event())
        for piece in (first[:9], first[9:], second[:4]):
            await client.write_event(SynthesizeChunk(text=piece).event())
        events = [event for _ in range(2) if (event := await client.read_event()) is not None]
        assert [each.type for each in events] == ["audio-start", "audio-chunk"]
        await client.write_event(SynthesizeChunk(text=second[4:]).event())
        await client.write_event(Synthesize(text=first + second).event())  # for servers without streams
        await client.write_event(SynthesizeStop().event())
        events += await events_until(client, SynthesizeStopped)
        audio = np.frombuffer(audio_of(events), "<i2").astype(int)
        whole = np.frombuffer(expected(server, first + second, "amy.wav"), "<i2").astype(int)
        assert abs(len(audio) - len(whole)) <= 1920 * 2  # spaces between the pieces
        spoken = len(first.strip()) * 1920  # samples of the first sentence: pieces are laid end to end
        np.testing.assert_allclose(audio[: spoken - 1920], whole[: spoken - 1920], atol=1)
        assert [each.type for each in events].count("audio-start") == 1
        await client.write_event(Synthesize(text="Again.").event())  # the connection goes on
        assert audio_of(await events_until(client, AudioStop)) == expected(server, "Again.")


async def test_streams_of_nothing_and_of_markup(server: Server) -> None:
    async with talking(server) as client:
        for pieces in ((), ("", " ")):
            await client.write_event(SynthesizeStart().event())
            for piece in pieces:
                await client.write_event(SynthesizeChunk(text=piece).event())
            await client.write_event(SynthesizeStop().event())
            assert audio_of(await events_until(client, SynthesizeStopped)) == b""
        await client.write_event(SynthesizeStart(text_format=SynthesizeTextFormat.SSML).event())
        for piece in ("One", '<break time="160ms"/>', "two."):
            await client.write_event(SynthesizeChunk(text=piece).event())
        await client.write_event(SynthesizeStop().event())
        whole = expected(server, '<speak>One<break time="160ms"/>two.</speak>')
        assert len(audio_of(await events_until(client, SynthesizeStopped))) == len(whole)


async def test_errors_are_told_and_the_connection_goes_on(server: Server) -> None:
    async with talking(server) as client:
        await client.write_event(Synthesize(text="Hello.", voice=SynthesizeVoice(name="nobody")).event())
        [event] = await events_until(client, Error)
        assert Error.from_event(event).code == "unknown_voice"
        assert "'nobody' is unknown" in Error.from_event(event).text
        await client.write_event(SynthesizeStart(voice=SynthesizeVoice(name="nobody")).event())
        await client.write_event(SynthesizeChunk(text="Hello. ").event())
        await client.write_event(SynthesizeStop().event())
        events = await events_until(client, SynthesizeStopped)
        [told] = [Error.from_event(each).text for each in events if Error.is_type(each.type)]
        assert "'nobody' is unknown" in told
        await client.write_event(Synthesize(text="Hello.").event())
        assert audio_of(await events_until(client, AudioStop)) == expected(server, "Hello.")
    async with (
        bridged("http://127.0.0.1:9") as port,
        AsyncTcpClient("127.0.0.1", port, connect_timeout=SECONDS, read_timeout=SECONDS) as client,
    ):
        for request in (Describe(), Synthesize(text="Hello.")):
            await client.write_event(request.event())
            [event] = await events_until(client, Error)
            assert "cannot connect to http://127.0.0.1:9" in Error.from_event(event).text
        await client.write_event(SynthesizeStart().event())
        await client.write_event(SynthesizeChunk(text="Hello.").event())
        await client.write_event(SynthesizeStop().event())
        assert "error" in [each.type for each in await events_until(client, SynthesizeStopped)]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_client_that_leaves_frees_its_slot(streams: bool, server: Server) -> None:
    text = "x" * 4000 + ". "

    async def active() -> int:
        async with httpx.AsyncClient(headers={"X-API-Key": KEY}, timeout=60) as http:
            status = (await http.get(f"{server.url}/system-status")).json()
            return int(status["workers"][0]["active"])

    async with talking(server) as client:
        if streams:
            await client.write_event(SynthesizeStart().event())
            await client.write_event(SynthesizeChunk(text=text).event())
        else:
            await client.write_event(Synthesize(text=text).event())
        for _ in range(2):
            assert await client.read_event() is not None
        assert await active() == 1
        await client.disconnect()
        async with asyncio.timeout(SECONDS):
            while await active():
                await asyncio.sleep(0.02)


async def test_garbage_ends_only_its_own_connection(server: Server) -> None:
    async with bridged(server.url) as port:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 200_000 + b"\n", b'{"type": "synthesize"}\n', b"[]\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                writer.write(garbage)
                await writer.drain()
                assert await asyncio.wait_for(reader.read(), SECONDS) == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        async with AsyncTcpClient("127.0.0.1", port, connect_timeout=SECONDS, read_timeout=SECONDS) as client:
            await client.write_event(Describe().event())
            await events_until(client, Info)


async def test_it_is_announced_and_withdrawn() -> None:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    name = f"csm-test-{os.getpid()}"
    async with announced(name, "127.0.0.1", 10_200, interfaces=["127.0.0.1"]):
        browser = AsyncZeroconf(interfaces=["127.0.0.1"])
        info = AsyncServiceInfo("_wyoming._tcp.local.", f"{name}._wyoming._tcp.local.")
        found = await info.async_request(browser.zeroconf, 20_000)
        await browser.async_close()
    assert found
    assert (info.port, info.parsed_addresses()) == (10_200, ["127.0.0.1"])


def test_the_command_serves_until_it_is_ended(server: Server, tmp_path: Path) -> None:
    def command(*options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "wyoming", *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CSM_URL": server.url, "API_KEY": KEY},
            stderr=subprocess.PIPE,
            text=True,
        )

    async def describe(port: int) -> None:
        async with AsyncTcpClient("127.0.0.1", port, connect_timeout=SECONDS, read_timeout=SECONDS) as client:
            await client.write_event(Describe().event())
            [event] = await events_until(client, Info)
            assert "amy.wav" in [voice.name for voice in Info.from_event(event).tts[0].voices]
            os.kill(process.pid, signal.SIGTERM)
            assert await client.read_event() is None

    with command("--listen", "tcp://127.0.0.1:0") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Serving Wyoming on tcp://127.0.0.1:"), line
        asyncio.run(describe(int(line.rpartition(":")[2])))
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == ""
    with command("--listen", "somewhere") as process:
        assert process.stderr is not None
        assert "--listen somewhere must be tcp://address:port" in process.stderr.read()
        assert process.wait(SECONDS) == 2
