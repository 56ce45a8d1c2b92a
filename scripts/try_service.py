"""Smoke test of a running service: every voice, an upload, every format, and the page with all its files.

Exits with status 1 at the first failure.

Needs only the serving dependencies. The key is API_KEY from the environment or .env; the argument is the service's URL.
"""

from __future__ import annotations

import io
import re
import sys
from urllib.parse import urljoin

import av
import httpx
import numpy as np
from csm_serve_client.environment import address_and_key

from app.audio.encoders.formats import FORMATS, Format

TEXT = "Hello there, this is a test."
SECONDS = (0.4, 20.0)  # accepted length of its audio
_RAW = {"raw_pcm": "s16le", "mulaw": "mulaw", "alaw": "alaw"}  # FFmpeg's names of formats without a header


def main() -> None:
    (url,) = sys.argv[1:]
    with httpx.Client(base_url=url, headers={"X-API-Key": address_and_key()[1] or ""}, timeout=120) as client:
        for voice in _voices(client):
            _speak(client, FORMATS["wav"], voice)
        _upload(client)
        for format_ in FORMATS.values():
            _speak(client, format_)
        _page(client)


def _voices(client: httpx.Client) -> list[str]:
    voices: list[str] = client.get("/voices").raise_for_status().json()
    _expect(bool(voices), "GET /voices lists no voice")
    return voices


def _speak(client: httpx.Client, format_: Format, voice: str | None = None) -> None:
    query = {"text": TEXT, "format": format_.name, **({"voice_id": voice} if voice else {})}
    answer = client.get("/tts/generate", params=query)
    _expect(answer.status_code == 200, f"{format_.name}, voice {voice}: {answer.status_code} {answer.text[:300]}")
    media_type = answer.headers["Content-Type"]
    _expect(media_type == format_.media_type, f"{format_.name}: Content-Type {media_type}, not {format_.media_type}")
    samples, rate = _decode(answer.content, format_.name)
    seconds, peak = samples.size / rate, float(np.abs(samples).max(initial=0))
    _expect(SECONDS[0] <= seconds <= SECONDS[1], f"{format_.name}, voice {voice}: {seconds:.2f} s of audio")
    _expect(0.01 < peak <= 1.1, f"{format_.name}, voice {voice}: peak {peak:.4f}")
    engine = answer.headers["X-TTS-Engine"]
    print(f"{format_.name:8} {voice or 'default':14} {seconds:5.2f} s, peak {peak:.2f}, by {engine}", flush=True)


def _decode(data: bytes, name: str) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], int]:
    """float32 (samples,) of the first channel, and the sample rate."""
    rate_without_header = str(FORMATS[name].sample_rate)
    options = {"sample_rate": rate_without_header, "ch_layout": "mono"} if name in _RAW else {}
    with av.open(io.BytesIO(data), "r", format=_RAW.get(name), options=options) as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler("fltp", "mono", rate)
        frames = [each for frame in container.decode(audio=0) for each in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames]), rate


def _upload(client: httpx.Client) -> None:
    """Upload generated speech as a voice, use the voice, and delete it."""
    recording = client.get("/tts/generate", params={"text": TEXT, "seed": 1}).raise_for_status().content
    form = {"voice_id": "smoke-test.wav", "transcript": TEXT}
    answer = client.post("/voices", data=form, files={"file": ("smoke-test.wav", recording, "audio/wav")})
    _expect(answer.status_code == 201, f"POST /voices: {answer.status_code} {answer.text[:300]}")
    _speak(client, FORMATS["wav"], "smoke-test.wav")
    answer = client.delete("/voices/smoke-test.wav")
    _expect(answer.status_code == 200, f"DELETE /voices/smoke-test.wav: {answer.status_code} {answer.text[:300]}")


def _page(client: httpx.Client) -> None:
    """Fetch the page and every file that it names, and those that these name."""
    waiting, fetched = ["/"], set[str]()
    while waiting:
        path = waiting.pop()
        if path not in fetched:
            answer = client.get(path)
            _expect(answer.status_code == 200, f"GET {path}: {answer.status_code}")
            fetched.add(path)
            waiting += files_named(path, answer.text)
    _expect("/static/client/index.js" in fetched, "the page loads no client")  # a link to clients/js/src
    print(f"the page and its {len(fetched) - 1} files", flush=True)


def files_named(path: str, text: str) -> list[str]:
    """The paths of the files that a page or a module at this path loads."""
    named: list[str] = re.findall(r"""(?:src=|href=|from |import |new URL\()"(\.?/[^"]+\.\w+)\"""", text)
    return [urljoin(path, each) for each in named]


def _expect(holds: bool, failure: str) -> None:
    if not holds:
        sys.exit(f"Failed: {failure}")


if __name__ == "__main__":
    main()
