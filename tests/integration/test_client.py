"""The client and the commands against a service of real processes."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import wave
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from app.audio.encoders import FORMATS, wav_file
from app.cli import main as cli
from app.cli.player import PLAYERS
from app.client import AsyncCsmClient, CsmClient, NotFound, StreamCut, Unauthorized
from tests.integration.shared import KEY, Server, serving

ROOT = Path(__file__).parents[2]
FRAME_BYTES = 3840  # 80 ms; the fake engine makes a frame of each character
ENDLESS = "x" * 4000
CUT = "[raise@60]" + "x" * 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One slot, and nobody waits: who leaves it taken is found out."""
    folder = tmp_path_factory.mktemp("service")
    with serving(
        folder,
        MODEL_PATH="fake:frame_seconds=0.01",
        CONCURRENT_REQUESTS_PER_WORKER="1",
        MAX_QUEUED_REQUESTS="0",
    ) as started:
        yield started


@pytest.fixture
def here(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which commands find the service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CSM_URL", server.url)
    monkeypatch.setenv("API_KEY", f"{KEY},another")
    return tmp_path


@pytest.fixture
def client(server: Server) -> Iterator[CsmClient]:
    with CsmClient(server.url, KEY, retries=5) as client:
        yield client


def start(*arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """A command as a process of its own, fed and read by the test."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        # a shell lets what it starts in the background ignore it, and so would these
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no other thread needs it
    )


def read(process: subprocess.Popen[bytes], size: int) -> bytes:
    assert process.stdout is not None
    return process.stdout.read(size)


def recording(hertz: float) -> bytes:
    seconds = np.arange(48_000, dtype=np.float32) / 24_000
    return wav_file((0.3 * np.sin(2 * np.pi * hertz * seconds)).astype(np.float32))


# ---- speak


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_in_every_format_is_whole(name: str, here: Path) -> None:
    path = here / f"out.{FORMATS[name].extension}"
    assert cli.main(["speak", "Hello", "there.", "-o", path.name, "--seed", "7", "--top-k", "3"]) == 0
    data = path.read_bytes()
    if name == "raw_pcm":
        assert len(data) == 12 * FRAME_BYTES
        return
    with av.open(io.BytesIO(data)) as container:
        samples = sum(frame.samples * 24_000 // frame.sample_rate for frame in container.decode(audio=0))
    assert 12 * 1920 <= samples < 14 * 1920


def test_a_wav_file_knows_its_length(here: Path) -> None:
    assert cli.main(["speak", "Hello there.", "-o", "out.wav"]) == 0
    with wave.open("out.wav") as file:
        assert file.getnframes() == 12 * 1920


def test_a_voice_sounds_in_what_is_said(client: CsmClient, here: Path) -> None:
    client.add_voice(recording(440), voice_id="mine.wav")
    for name, options in (("a", []), ("b", ["--voice", "mine.wav"]), ("c", ["--voice", "speaker_7"])):
        assert cli.main(["speak", "Hi.", "-o", f"{name}.pcm", *options]) == 0
    assert len({(here / f"{name}.pcm").read_bytes() for name in "abc"}) == 3
    client.delete_voice("mine.wav")


def test_what_is_piped_in_is_said_before_it_ends(here: Path) -> None:
    process = start("speak", "-o", "-")
    assert process.stdin is not None
    with process, process.stdin as stdin:
        stdin.write(b"Hello there. And")
        stdin.flush()
        said = read(process, 44 + 12 * FRAME_BYTES)
        assert said.startswith(b"RIFF")
        stdin.write(b" bye.")
        stdin.close()
        assert len(read(process, -1)) == 8 * FRAME_BYTES
    assert process.returncode == 0


def test_the_loudspeaker_hears_it_while_it_is_made(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = here / "aplay"
    program.write_text("#!/bin/sh\nexec cat > heard\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    monkeypatch.setattr("app.cli.player.PLAYERS", [each for each in PLAYERS if each.name == "aplay"])
    assert cli.main(["speak", "Hello there."]) == 0
    assert (here / "heard").stat().st_size == 12 * FRAME_BYTES


def test_a_terminal_sees_how_far_it_is(here: Path) -> None:
    ours, theirs = os.openpty()
    with start("speak", "Hello there.", "-o", "out.wav", stderr=theirs) as process:
        os.close(theirs)
        told = b""
        while b"\n" not in told:
            told += os.read(ours, 65536)
    os.close(ours)
    assert process.returncode == 0
    assert re.search(rb"out\.wav: 1\.0 s of speech, first audio after \d\.\d\d s", told)


def test_a_cut_stream_is_told_and_leaves_no_file(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["speak", CUT, "-o", "out.wav"]) == 6
    assert "not whole" in capfd.readouterr().err
    assert list(here.iterdir()) == []


def test_an_interrupt_frees_the_slot(server: Server, here: Path, client: CsmClient) -> None:
    ended = len(server.outcomes())
    with start("speak", ENDLESS, "-o", "-") as process:
        assert len(read(process, 44 + FRAME_BYTES)) > 44
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 130
    server.wait_until(lambda: server.outcomes()[ended:] == ["left"])
    assert client.speak("Hi.")


def test_without_a_reader_it_ends_quietly(server: Server, here: Path, client: CsmClient) -> None:
    ended = len(server.outcomes())
    with start("speak", ENDLESS, "-o", "-") as process:
        read(process, 44)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141
    server.wait_until(lambda: server.outcomes()[ended:] == ["left"])


def test_busy_has_a_status_of_its_own(here: Path, client: CsmClient, capfd: pytest.CaptureFixture[str]) -> None:
    with client.stream(ENDLESS) as speech:
        next(speech)
        assert cli.main(["speak", "Hi.", "-o", "out.wav", "--retries", "0"]) == 5
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_wrong_key_is_told_and_not_shown(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEY", "s3cret")
    assert cli.main(["speak", "Hi.", "-o", "out.wav"]) == 4
    assert cli.main(["voices", "list"]) == 4
    told = capfd.readouterr()
    assert told.err.count("set API_KEY") == len(told.err.splitlines()) == 2
    assert "s3cret" not in told.err + told.out


def test_nobody_there_is_told(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert cli.main(["voices", "list", "--url", url]) == 3
    assert re.fullmatch(rf"csm-serve: nobody answers at {url} .*--url.*\n", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["speak", "Hi.", "-o", "out.wav", "--voice", "nobody.wav"], 4, "nobody.wav"),
        (["speak", "Hi.", "-o", "out.wav", "--top-k", "0"], 4, "top_k"),
        (["speak", "", "-o", "out.wav"], 4, "text"),
        (["speak", "Hi.", "-o", "no/out.wav"], 1, "No such file"),
        (["speak", "Hi.", "-o", "out.txt"], 2, "--format"),
        (["voices", "remove", "nobody.wav"], 4, "nobody.wav"),
        (["voices", "add", "nothing.wav"], 1, "nothing.wav"),
    ],
)
def test_what_goes_wrong_is_one_line(
    arguments: list[str], status: int, words: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == status
    told = capfd.readouterr()
    assert re.fullmatch(rf"csm-serve: .*{re.escape(words)}.*\n", told.err)
    assert list(here.iterdir()) == []


# ---- voices


def test_voices_are_added_listed_replaced_and_removed(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> str:
        assert cli.main(["voices", *arguments]) == 0
        return capfd.readouterr().out

    (here / "amy.wav").write_bytes(recording(300))
    (here / "amy.txt").write_text("What she says.", encoding="utf-8")
    assert "--voice amy.wav" in told("add", "amy.wav")
    assert "--voice bob" in told("add", "amy.wav", "--name", "bob", "--transcript", "")
    assert told("list") == "amy.wav\nbob\n"
    amy, bob = told("list", "--long").splitlines()
    assert re.match(r"amy\.wav +2\.0 s +transcript +uploaded +20\d\d-", amy)
    assert "no transcript" in bob
    assert cli.main(["voices", "add", "amy.wav"]) == 4
    assert "amy.wav" in capfd.readouterr().err
    (here / "amy.wav").write_bytes(recording(600))
    assert "another voice" in told("add", "amy.wav", "--replace")
    for name in ("amy.wav", "bob"):
        assert name in told("remove", name)
    assert told("list") == ""


# ---- the client itself


def test_the_client_speaks_and_asks(client: CsmClient) -> None:
    with wave.open(io.BytesIO(client.speak("Hello there."))) as file:
        assert file.getnframes() == 12 * 1920
    with client.stream("x" * 50, format="raw_pcm") as speech:
        assert speech.head.engine == "fake"
        assert sum(map(len, speech)) == 50 * FRAME_BYTES
        assert speech.complete
    assert client.health().ready
    assert client.system_status()["workers"]
    with pytest.raises(NotFound) as caught:
        client.voice("nobody.wav")
    assert (caught.value.code, bool(caught.value.request_id)) == ("unknown_voice", True)


def test_the_client_takes_no_broken_stream_for_whole(client: CsmClient) -> None:
    with pytest.raises(StreamCut):
        client.speak(CUT)


def test_the_client_says_who_is_not_let_in(server: Server) -> None:
    with CsmClient(server.url, "wrong") as stranger, pytest.raises(Unauthorized):
        stranger.add_voice(bytes(5_000_000), voice_id="large.wav")


@pytest.mark.anyio
async def test_the_async_client_speaks_and_frees_its_slot(server: Server) -> None:
    async with AsyncCsmClient(server.url, KEY, retries=5) as client:
        ended = len(server.outcomes())
        async with client.stream(ENDLESS, format="mp3") as speech:
            async for data in speech:
                assert data
                break
        server.wait_until(lambda: server.outcomes()[ended:] == ["left"])
        assert len(await client.speak("Hi.", format="raw_pcm")) == 3 * FRAME_BYTES
        with pytest.raises(StreamCut):
            await client.speak(CUT)
        assert (await client.health()).ready
