"""Clients of the soak test: well-behaved ones, and those that stall, disconnect or send invalid requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from random import Random
from urllib.parse import urlencode

import anyio
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from scripts.soak.http_client import KEY, Response, Truncated, connect, request

FRAME_BYTES = 3840  # 80 ms of 16-bit samples; the fake engine generates one frame per character
WAV_HEADER_BYTES = 44
RESPONSE_SECONDS = 90.0  # timeout of a client; the service's queue timeout is 30
TRICKLE_SECONDS = 20.0  # how long a slow or stalled reader, or half a request, lasts before it disconnects
FORMATS = ("wav", "raw_pcm", "mp3", "opus", "flac", "aac", "fmp4", "webm")

Client = Callable[[int, Random], Awaitable[str]]  # (port, rng) -> outcome


def _text(rng: Random, max_characters: int = 200) -> str:
    return "x" * min(1 + int(rng.expovariate(1 / 40)), max_characters)


def _speech_request(text: str, audio: str, rng: Random) -> bytes:
    parameters = {"text": text, "format": audio}
    if rng.random() < 0.1:
        parameters["cfg_guidance_weight"] = "1.5"  # two slots
    if rng.random() < 0.5:
        return request("POST", "/tts/generate", json.dumps(parameters).encode())
    return request("GET", f"/tts/generate?{urlencode(parameters)}")


def _outcome(response: Response, text: str, audio: str) -> str:
    """Outcome of a complete response. WRONG: status 200 and a normal end, but incomplete audio; must never happen."""
    if response.status != 200:
        return str(response.status)
    expected = {"raw_pcm": len(text) * FRAME_BYTES, "wav": len(text) * FRAME_BYTES + WAV_HEADER_BYTES}.get(audio)
    return "whole" if (len(response.body) == expected if expected else response.body) else "WRONG"


async def whole(port: int, rng: Random) -> str:
    """Reads complete responses, sometimes several on one connection."""
    outcome = "none"
    async with connect(port) as connection:
        for _ in range(rng.choice((1, 1, 3))):
            text, audio = _text(rng), rng.choice(FORMATS)
            await connection.send(_speech_request(text, audio, rng))
            response = await connection.head()
            try:
                outcome = _outcome(await connection.body(response), text, audio)
            except Truncated:
                return "cut"
            if outcome != "whole":
                return outcome
    return outcome


async def slow_reader(port: int, rng: Random) -> str:
    """Reads slower than the engine generates for a while, then disconnects."""

    async def wait(received: int) -> None:
        await asyncio.sleep(0.3)

    async with connect(port, buffer=4096) as connection:
        text = "x" * 2000
        await connection.send(_speech_request(text, "raw_pcm", rng))
        response = await connection.head()
        try:
            with anyio.fail_after(TRICKLE_SECONDS):
                return _outcome(await connection.body(response, wait), text, "raw_pcm")
        except TimeoutError:
            return "left"
        except Truncated:
            return "cut"


async def stopped_reader(port: int, rng: Random) -> str:
    """Reads only the head. The service must end the stream, or the client resets the connection."""
    async with connect(port, buffer=4096) as connection:
        await connection.send(_speech_request("x" * 4000, "raw_pcm", rng))
        response = await connection.head()
        await asyncio.sleep(rng.choice((5.0, TRICKLE_SECONDS, RESPONSE_SECONDS)))
        try:
            with anyio.fail_after(5.0):
                await connection.body(response)
        except Truncated:
            return "cut"
        except TimeoutError:
            connection.reset()
            return "left"
        return "WRONG"  # no buffer holds that much


async def leaves_in_the_queue(port: int, rng: Random) -> str:
    async with connect(port) as connection:
        await connection.send(_speech_request(_text(rng), "wav", rng))
        await asyncio.sleep(rng.choice((0.0, 0.001, 0.02)))
        if rng.random() < 0.5:
            connection.reset()
    return "left"


async def leaves_in_mid_stream(port: int, rng: Random) -> str:
    async with connect(port) as connection:
        text = "x" * 300
        await connection.send(_speech_request(text, rng.choice(FORMATS), rng))
        response = await connection.head()
        limit = rng.randrange(1, 20_000)

        async def leave(received: int) -> None:
            if received >= limit:
                raise EOFError

        try:
            await connection.body(response, leave)
        except EOFError:
            if rng.random() < 0.5:
                connection.reset()
            return "left"
        except Truncated:
            return "cut"
        return str(response.status)


async def half_a_head(port: int, rng: Random) -> str:
    """Sends part of a request head, then at most a byte per second; the service must close the connection."""
    head = request("GET", "/tts/generate?text=never")
    async with connect(port) as connection:
        await connection.send(head[: rng.randrange(1, len(head) - 2)])
        closed = asyncio.ensure_future(connection.closed())
        try:
            for _ in range(int(TRICKLE_SECONDS)):
                if (await asyncio.wait({closed}, timeout=1.0))[0]:
                    return "closed"
                if rng.random() < 0.5:
                    await connection.send(b"X")
        finally:
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)
    return "left"


async def half_a_body(port: int, rng: Random) -> str:
    body = json.dumps({"text": "never", "format": "wav"}).encode()
    async with connect(port) as connection:
        await connection.send(request("POST", "/tts/generate", body)[: -rng.randrange(1, len(body))])
        try:
            with anyio.fail_after(rng.choice((0.1, TRICKLE_SECONDS))):
                return str((await connection.head()).status)
        except TimeoutError:
            return "left"


_BAD: tuple[tuple[bytes, set[int]], ...] = (
    (request("GET", "/tts/generate?text=Hi", key=None), {401}),
    (request("GET", "/tts/generate?text=Hi", key="wrong"), {401}),
    (request("GET", "/tts/generate?text="), {422}),
    (request("GET", "/tts/generate?text=Hi&top_k=0"), {422}),
    (request("GET", "/tts/generate?text=Hi&format=tape"), {400}),
    (request("GET", "/tts/generate?text=Hi&voice_id=nobody"), {404, 429, 503}),
    (request("POST", "/tts/generate", b"{"), {422}),
    (request("POST", "/tts/generate", b"[]"), {422}),
    (request("PATCH", "/tts/generate"), {405}),
    (request("GET", "/nothing"), {404}),
    (b"POST /tts/generate HTTP/1.1\r\nHost: x\r\nX-API-Key: wrong\r\nContent-Length: 999999999\r\n\r\n", {401}),
    (b"HELLO\r\n\r\n", {400}),
)


async def bad_request(port: int, rng: Random) -> str:
    data, expected = rng.choice(_BAD)
    async with connect(port) as connection:
        await connection.send(data)
        response = await connection.body(await connection.head())
    return str(response.status) if response.status in expected else f"WRONG {response.status}"


async def engine_fault(port: int, rng: Random) -> str:
    """Requests an engine failure, before or after the first byte."""
    fault = rng.choice(("[raise]", "[memory]", "[raise@20]", "[memory@20]"))
    async with connect(port) as connection:
        await connection.send(request("GET", f"/tts/generate?{urlencode({'text': fault + 'x' * 60, 'format': 'wav'})}"))
        response = await connection.head()
        try:
            await connection.body(response)
        except Truncated:
            return "cut"
    return str(response.status) if response.status != 200 else "WRONG"


async def websocket(port: int, rng: Random) -> str:
    """Sends texts on one WebSocket; sometimes cancels one or disconnects in the middle of it."""
    try:
        async with connect_websocket(f"ws://127.0.0.1:{port}/ws?api_key={KEY}", close_timeout=2) as socket:
            for _ in range(rng.choice((1, 2, 5))):
                text, ending = _text(rng), rng.choice(("end", "end", "cancel", "leave"))
                await socket.send(json.dumps({"text": text, "binary": True}))
                samples = 0
                async for message in socket:
                    if isinstance(message, bytes):
                        samples += len(message) // 4
                        if ending == "leave":
                            return "left"
                        if ending == "cancel":
                            await socket.send('{"type": "cancel"}')
                            ending = "cancelled"
                        continue
                    event = json.loads(message)
                    if event["type"] == "error":
                        return str(event["code"])
                    if event["type"] == "completion":
                        break
                if ending == "end" and samples * 2 != len(text) * FRAME_BYTES:
                    return "WRONG"
    except InvalidStatus as error:
        return str(error.response.status_code)
    except (ConnectionClosed, OSError, InvalidMessage):
        return "cut"
    return "whole"


async def poll(port: int, rng: Random) -> str:
    path = rng.choice(("/system-status", "/metrics", "/health", "/livez", "/readyz", "/voices"))
    async with connect(port) as connection:
        await connection.send(request("GET", path, close=True))
        return str((await connection.body(await connection.head())).status)


CLIENTS: dict[Client, int] = {  # with relative frequencies
    whole: 50,
    slow_reader: 3,
    stopped_reader: 2,
    leaves_in_the_queue: 8,
    leaves_in_mid_stream: 10,
    half_a_head: 3,
    half_a_body: 3,
    bad_request: 10,
    websocket: 12,
    engine_fault: 4,
    poll: 20,
}


async def run_client(client: Client, port: int, rng: Random) -> str:
    """Run a client. Returns its outcome: `SILENT` after a timeout, `broken` if the connection failed."""
    try:
        with anyio.fail_after(RESPONSE_SECONDS + 2 * TRICKLE_SECONDS):
            return await client(port, rng)
    except TimeoutError:
        return "SILENT"
    except Truncated:
        return "broken"
