"""The clients of the soak: most behave, the others do what clients on an open network do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from random import Random
from urllib.parse import urlencode

import anyio
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from scripts.soak.http_client import KEY, Answer, Cut, connect, request

FRAME_BYTES = 3840  # 80 ms of 16-bit samples; the fake engine speaks one frame a character
WAV_HEADER_BYTES = 44
PATIENCE_SECONDS = 90.0  # for the next sign of life; the queue's own wait is 30
TRICKLE_SECONDS = 20.0  # how long a slow or a stopped reader, or half a request, goes on before it leaves
FORMATS = ("wav", "raw_pcm", "mp3", "opus", "flac", "aac", "fmp4", "webm")

Client = Callable[[int, Random], Awaitable[str]]  # (port, chance) -> verdict


def _text(chance: Random, longest: int = 200) -> str:
    return "x" * min(1 + int(chance.expovariate(1 / 40)), longest)


def _order(text: str, audio: str, chance: Random) -> bytes:
    parameters = {"text": text, "format": audio}
    if chance.random() < 0.1:
        parameters["cfg_guidance_weight"] = "1.5"  # two slots
    if chance.random() < 0.5:
        return request("POST", "/tts/generate", json.dumps(parameters).encode())
    return request("GET", f"/tts/generate?{urlencode(parameters)}")


def _verdict(answer: Answer, text: str, audio: str) -> str:
    """Of an answer that came to its end. A 200 that is not whole and yet ended well is what must never be."""
    if answer.status != 200:
        return str(answer.status)
    expected = {"raw_pcm": len(text) * FRAME_BYTES, "wav": len(text) * FRAME_BYTES + WAV_HEADER_BYTES}.get(audio)
    return "whole" if (len(answer.body) == expected if expected else answer.body) else "WRONG"


async def whole(port: int, chance: Random) -> str:
    """Takes what it asked for, and perhaps asks again on the same connection."""
    verdict = "none"
    async with connect(port) as wire:
        for _ in range(chance.choice((1, 1, 3))):
            text, audio = _text(chance), chance.choice(FORMATS)
            await wire.send(_order(text, audio, chance))
            answer = await wire.head()
            try:
                verdict = _verdict(await wire.body(answer), text, audio)
            except Cut:
                return "cut"
            if verdict != "whole":
                return verdict
    return verdict


async def slow_reader(port: int, chance: Random) -> str:
    """Reads slower than it is spoken, and no slower than it is heard for a while; then leaves."""

    async def dawdle(got: int) -> None:
        await asyncio.sleep(0.3)

    async with connect(port, buffer=4096) as wire:
        text = "x" * 2000
        await wire.send(_order(text, "raw_pcm", chance))
        answer = await wire.head()
        try:
            with anyio.fail_after(TRICKLE_SECONDS):
                return _verdict(await wire.body(answer, dawdle), text, "raw_pcm")
        except TimeoutError:
            return "left"
        except Cut:
            return "cut"


async def stopped_reader(port: int, chance: Random) -> str:
    """Reads the head and no more. The service has to end that by itself, or it leaves without a word."""
    async with connect(port, buffer=4096) as wire:
        await wire.send(_order("x" * 4000, "raw_pcm", chance))
        answer = await wire.head()
        await asyncio.sleep(chance.choice((5.0, TRICKLE_SECONDS, PATIENCE_SECONDS)))
        try:
            with anyio.fail_after(5.0):
                await wire.body(answer)
        except Cut:
            return "cut"
        except TimeoutError:
            wire.reset()
            return "left"
        return "WRONG"  # nobody can have held all of that


async def leaves_in_the_queue(port: int, chance: Random) -> str:
    async with connect(port) as wire:
        await wire.send(_order(_text(chance), "wav", chance))
        await asyncio.sleep(chance.choice((0.0, 0.001, 0.02)))
        if chance.random() < 0.5:
            wire.reset()
    return "left"


async def leaves_in_mid_stream(port: int, chance: Random) -> str:
    async with connect(port) as wire:
        text = "x" * 300
        await wire.send(_order(text, chance.choice(FORMATS), chance))
        answer = await wire.head()
        enough = chance.randrange(1, 20_000)

        async def leave(got: int) -> None:
            if got >= enough:
                raise EOFError

        try:
            await wire.body(answer, leave)
        except EOFError:
            if chance.random() < 0.5:
                wire.reset()
            return "left"
        except Cut:
            return "cut"
        return str(answer.status)


async def half_a_head(port: int, chance: Random) -> str:
    """Sends half of its head, or a byte a second of it; the service has to end that."""
    head = request("GET", "/tts/generate?text=never")
    async with connect(port) as wire:
        await wire.send(head[: chance.randrange(1, len(head) - 2)])
        closed = asyncio.ensure_future(wire.closed())
        try:
            for _ in range(int(TRICKLE_SECONDS)):
                if (await asyncio.wait({closed}, timeout=1.0))[0]:
                    return "closed"
                if chance.random() < 0.5:
                    await wire.send(b"X")
        finally:
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)
    return "left"


async def half_a_body(port: int, chance: Random) -> str:
    body = json.dumps({"text": "never", "format": "wav"}).encode()
    async with connect(port) as wire:
        await wire.send(request("POST", "/tts/generate", body)[: -chance.randrange(1, len(body))])
        try:
            with anyio.fail_after(chance.choice((0.1, TRICKLE_SECONDS))):
                return str((await wire.head()).status)
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


async def bad_request(port: int, chance: Random) -> str:
    data, expected = chance.choice(_BAD)
    async with connect(port) as wire:
        await wire.send(data)
        answer = await wire.body(await wire.head())
    return str(answer.status) if answer.status in expected else f"WRONG {answer.status}"


async def engine_fault(port: int, chance: Random) -> str:
    """Asks for a failure of the engine, before or behind the first byte."""
    fault = chance.choice(("[raise]", "[memory]", "[raise@20]", "[memory@20]"))
    async with connect(port) as wire:
        await wire.send(request("GET", f"/tts/generate?{urlencode({'text': fault + 'x' * 60, 'format': 'wav'})}"))
        answer = await wire.head()
        try:
            await wire.body(answer)
        except Cut:
            return "cut"
    return str(answer.status) if answer.status != 200 else "WRONG"


async def websocket(port: int, chance: Random) -> str:
    """Says some texts on one connection; now and then cancels one, or leaves in the middle of it."""
    try:
        async with connect_websocket(f"ws://127.0.0.1:{port}/ws?api_key={KEY}", close_timeout=2) as socket:
            for _ in range(chance.choice((1, 2, 5))):
                text, ending = _text(chance), chance.choice(("end", "end", "cancel", "leave"))
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
                    told = json.loads(message)
                    if told["type"] == "error":
                        return str(told["code"])
                    if told["type"] == "completion":
                        break
                if ending == "end" and samples * 2 != len(text) * FRAME_BYTES:
                    return "WRONG"
    except InvalidStatus as error:
        return str(error.response.status_code)
    except (ConnectionClosed, OSError, InvalidMessage):
        return "cut"
    return "whole"


async def poll(port: int, chance: Random) -> str:
    path = chance.choice(("/system-status", "/metrics", "/health", "/livez", "/readyz", "/voices"))
    async with connect(port) as wire:
        await wire.send(request("GET", path, close=True))
        return str((await wire.body(await wire.head())).status)


CLIENTS: dict[Client, int] = {  # and how often each comes
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


async def verdict_of(client: Client, port: int, chance: Random) -> str:
    """How a client fared; `SILENT` if it was left without an answer or an end, `broken` if the connection broke."""
    try:
        with anyio.fail_after(PATIENCE_SECONDS + 2 * TRICKLE_SECONDS):
            return await client(port, chance)
    except TimeoutError:
        return "SILENT"
    except Cut:
        return "broken"
