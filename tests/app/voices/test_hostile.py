"""Malicious files: each is rejected with a client error, or decoded. None opens another file or a URL."""

from __future__ import annotations

import random
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import pytest

from app.errors import ServiceError
from app.voices.recording_decoder import VoiceDecoder
from app.voices.store import VoiceStore
from tests.app.voices.recordings import CONTAINERS, encode, pitch_of, recording, tone

MUTATIONS_OF_EACH = 60
REFUSALS = {400, 413, 415, 422}

T = TypeVar("T")


class Canary:
    """A file and a server that no upload may access."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "canary.wav"
        self.path.write_bytes(encode(tone(3, 24_000, 880.0), "wav", "pcm_s16le", 24_000))
        self.requests: list[str] = []
        seen = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                self.send_error(404)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/canary.wav"


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    canary = Canary(tmp_path)
    thread = threading.Thread(target=canary.server.serve_forever, args=(0.05,))
    thread.start()
    yield canary
    canary.server.shutdown()
    thread.join(60)
    canary.server.server_close()


def decoded_or_rejected(call: Callable[[], T]) -> T | None:
    """The result of the call, or None if it fails with one of REFUSALS and a message."""
    try:
        return call()
    except ServiceError as refused:
        answer = refused
    assert answer.status in REFUSALS
    assert answer.detail
    return None


# ---- files that reference others


def playlists(target: str) -> dict[str, bytes]:
    return {
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n".encode(),
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n".encode(),
        "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n",
        "dash": f'<?xml version="1.0"?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>'.encode(),
        "pls": f"[playlist]\nFile1={target}\n".encode(),
        "smil": f'<smil><body><audio src="{target}"/></body></smil>'.encode(),
        "rtsp": f"[Reference]\nRef1={target}\n".encode(),
        "cue": f'FILE "{target}" WAVE\n  TRACK 01 AUDIO\n'.encode(),
    }


def with_magic_bytes(playlist: bytes) -> dict[str, bytes]:
    """The playlist after the first bytes of each supported format."""
    return {
        "wav": b"RIFF" + struct.pack("<I", len(playlist) + 4) + b"WAVE" + playlist,
        "mp3": b"ID3\4\0\0\0\0\0\0" + playlist,
        "flac": b"fLaC" + playlist,
        "ogg": b"OggS" + playlist,
        "mp4": b"\0\0\0\x10ftypM4A \0\0\0\0" + playlist,
        "webm": b"\x1a\x45\xdf\xa3\x84webm" + playlist,
        "tail": recording("mp3") + playlist,
    }


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def patch_box(data: bytes, path: list[bytes], body: bytes) -> bytes:
    """Replace the body of the mp4 box at that path, and update the sizes of the boxes around it."""
    out, position = b"", 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        inner = data[position + 8 : position + size]
        if kind == path[0]:
            inner = body if len(path) == 1 else patch_box(inner, path[1:], body)
        out += box(kind, inner)
        position += size
    return out


def alias(path: str) -> bytes:
    """An 'alis' data reference to an absolute path, as QuickTime writes it."""
    name = path.encode()
    body = bytes(4) + bytes(10) + b"\1v" + bytes(26) + bytes(12) + b"\1f" + bytes(62) + bytes(16)
    body += struct.pack(">hh", 0, 0) + bytes(16)  # no relative path, only the absolute one
    body += struct.pack(">hh", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">hh", -1, 0)
    return box(b"alis", body + bytes(max(0, 170 - len(body))))


def video_with_external_audio(path: str) -> bytes:
    """A video whose audio, as PCM, is in another file."""
    references = struct.pack(">II", 0, 1) + alias(path)
    video = encode(tone(1.5, 24_000), "mov", "pcm_s16le", 24_000)
    return patch_box(video, [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"], references)


def test_without_the_sandbox_the_video_reads_the_canary(canary: Canary) -> None:
    """Shows that the next test is effective."""
    video = BytesIO(video_with_external_audio(str(canary.path)))
    with av.open(
        video,
        format="mov",
        container_options={"enable_drefs": "1", "use_absolute_path": "1"},
        io_open=lambda url, flags, options: BytesIO(canary.path.read_bytes()),
    ) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert abs(pitch_of(sound / 32768) - 880) < 2


def test_no_upload_reads_another_file_or_a_url(canary: Canary, tmp_path: Path) -> None:
    store = VoiceStore(tmp_path / "preloaded", tmp_path / "uploads")
    before = sorted(path.name for path in (tmp_path / "uploads").iterdir())
    files = {
        "video": video_with_external_audio(str(canary.path)),
        "video of a URL": video_with_external_audio(canary.url),
    }
    for target in (str(canary.path), canary.url):
        for name, playlist in playlists(target).items():
            files[f"{name} of {target}"] = playlist
            files |= {f"{name} of {target} as {kind}": data for kind, data in with_magic_bytes(playlist).items()}
    voices = 0
    with VoiceDecoder(25 << 20, 30.0) as decoder:
        for name, data in files.items():
            samples = decoded_or_rejected(partial(decoder.decode, data))
            if samples is None:
                continue
            voices += 1
            assert abs(pitch_of(samples.samples) - 220) < 2, f"{name} has the canary's audio"
    assert voices >= 2 * len(playlists(""))  # those with a playlist after a complete mp3
    for data in list(files.values())[:6]:
        with pytest.raises(ServiceError):
            store.add("amy.wav", data)
    assert sorted(path.name for path in (tmp_path / "uploads").iterdir()) == before
    assert canary.requests == []


# ---- malformed files


def zipped() -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("amy.wav", bytes(1 << 20))
    return packed.getvalue()


def header(rate: int, channels: int, bits: int, size: int, tag: int = 1) -> bytes:
    step = channels * bits // 8
    size &= 0xFFFFFFFF
    head = struct.pack("<4sI4s4sIHHI", b"RIFF", size, b"WAVE", b"fmt ", 16, tag, channels, rate)
    head += struct.pack("<IHH4sI", rate * step & 0xFFFFFFFF, step & 0xFFFF, bits, b"data", size)
    return head + np.random.default_rng(3).bytes(200_000)


MALFORMED = {
    "empty": b"",
    "zip": zipped(),
    "html": b"<!doctype html><script>alert(1)</script>",
    "svg": b"<svg onload=alert(1)>",
    "elf": b"\x7fELF" + bytes(1000),
    "pickle": b"\x80\4cos\nsystem\n(S'id'\ntR.",
    "rate 0": header(0, 1, 16, 200_000),
    "rate 1": header(1, 1, 16, 200_000),
    "rate of 4 GHz": header(0xFFFFFFFF, 1, 16, 200_000),
    "no channels": header(24_000, 0, 16, 200_000),
    "65535 channels": header(24_000, 65_535, 16, 200_000),
    "0 bits": header(24_000, 1, 0, 200_000),
    "65535 bits": header(24_000, 1, 65_535, 200_000),
    "a size of 4 GB": header(24_000, 1, 16, 0xFFFFFFFF),
    "an unsupported codec": header(24_000, 1, 16, 200_000, tag=0x161),
    "an unknown codec": header(24_000, 1, 16, 200_000, tag=0xBEEF),
    "an endless tag": b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(100_000),
    "an hour of silence": encode(np.zeros((1, 3600 * 8_000), np.float32), "flac", "flac", 8_000),
    "deeply nested boxes": box(b"ftyp", b"M4A " + bytes(4)) + b"".join(box(b"moov", b"")[:8] for _ in range(10_000)),
    "a table of 4 billion entries": patch_box(
        recording("mp4"), [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz"], struct.pack(">III", 0, 1, 0xFFFFFFFF)
    ),
    "a frame duration of zero": patch_box(
        recording("mp4"),
        [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"],
        struct.pack(">IIII", 0, 1, 0xFFFFFF, 0),
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_rejected_or_decoded_without_leftovers(name: str, tmp_path: Path) -> None:
    store = VoiceStore(tmp_path / "preloaded", tmp_path / "uploads")
    before = sorted(path.name for path in (tmp_path / "uploads").iterdir())
    voice = decoded_or_rejected(partial(store.add, "amy.wav", MALFORMED[name]))
    if voice is None:
        assert sorted(path.name for path in (tmp_path / "uploads").iterdir()) == before
        assert store.ids() == []
    else:
        assert 1 <= voice.seconds <= 30.1
        assert np.isfinite(voice.prompt.samples).all()
        assert store.ids() == ["amy.wav"]


# ---- mutated files


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        near = chance.choice((64, 600, len(mutant)))  # mutations of headers find the most
        at = chance.randrange(min(near, len(mutant)) or 1)
        length = chance.choice((1, 4, 64, 2000))
        match chance.randrange(6):
            case 0:
                mutant[at : at + 1] = bytes([mutant[at] ^ 1 << chance.randrange(8)]) if mutant else b""
            case 1:
                mutant[at : at + length] = chance.randbytes(length)
            case 2:
                mutant[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
            case 3:
                del mutant[at : at + length]
            case 4:
                start = chance.randrange(len(other))
                mutant[at:at] = other[start : start + length]
            case _:
                del mutant[max(at, 16) :]
    return bytes(mutant)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_mutated_files_are_rejected_or_decoded(kind: str) -> None:
    chance = random.Random(f"voices/{kind}")
    outcomes = {"decoded": 0, "rejected": 0}
    with VoiceDecoder(25 << 20, 3.0) as decoder:
        for _ in range(MUTATIONS_OF_EACH):
            other = recording(chance.choice(list(CONTAINERS)))
            data = mutated(recording(kind), other, chance)
            decoded = decoded_or_rejected(partial(decoder.decode, data))
            if decoded is None:
                outcomes["rejected"] += 1
            else:
                samples = decoded.samples
                assert 0 <= decoded.clipped <= 1
                assert 24_000 <= samples.size <= 3 * 24_000
                assert np.isfinite(samples).all()
                assert np.abs(samples).max() <= 1
                outcomes["decoded"] += 1
        assert decoder.decode(recording(kind)).samples.size >= 36_000  # a valid recording still decodes
    assert outcomes["rejected"] > 0
    assert outcomes["decoded"] > 0 or kind == "ogg"  # its pages have checksums: one wrong bit loses a second
