"""The Python client and the commands with a service of real processes."""

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
from csm_serve_client import AsyncCsmClient, CsmClient, NotFound, StreamCut, Unauthorized

from app.audio.encoders import FORMATS, wav_file
from app.cli import main as cli
from app.cli.exit_status import ExitStatus
from app.cli.player import PLAYERS
from tests.integration.shared import KEY, Server, serving

ROOT = Path(__file__).parents[2]
FRAME_BYTES = 3840  # 80 ms; the fake engine generates one frame per character
LONG_TEXT = "x" * 4000
ABORTED = "[raise@60]" + "x" * 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One slot and no queue, so that a slot that is not freed fails the next test."""
    folder = tmp_path_factory.mktemp("service")
    with serving(
        folder,
        MODEL_PATH="fake:frame_seconds=0.01",
        CONCURRENT_REQUESTS_PER_WORKER="1",
        MAX_QUEUED_REQUESTS="0",
    ) as started:
        yield started


@pytest.fixture
def work_dir(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, with the service's address and key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CSM_URL", server.url)
    monkeypatch.setenv("API_KEY", f"{KEY},another")
    return tmp_path


@pytest.fixture
def client(server: Server) -> Iterator[CsmClient]:
    with CsmClient(server.url, KEY, retries=5) as client:
        yield client


def start(*arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start a command as a process with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        # background processes of a shell ignore SIGINT, and their children inherit that
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
def test_a_file_of_every_format_is_complete(name: str, work_dir: Path) -> None:
    path = work_dir / f"out.{FORMATS[name].extension}"
    command = ["speak", "Hello", "there.", "-o", path.name, "--format", name, "--seed", "7", "--top-k", "3"]
    assert cli.main(command) == 0
    data = path.read_bytes()
    if name in ("raw_pcm", "mulaw", "alaw"):
        assert len(data) == 12 * (FRAME_BYTES if name == "raw_pcm" else 640)
        return
    with av.open(io.BytesIO(data)) as container:
        samples = sum(frame.samples * 24_000 // frame.sample_rate for frame in container.decode(audio=0))
    assert 12 * 1920 <= samples < 14 * 1920


def test_a_file_at_another_sample_rate_is_as_the_services(client: CsmClient, work_dir: Path) -> None:
    for name, rate in (("wav", 16_000), ("wav_mulaw", None), ("flac", 48_000)):
        options = [] if rate is None else ["--sample-rate", str(rate)]
        assert cli.main(["speak", "Hello there.", "-o", "out", "--format", name, "--seed", "7", *options]) == 0
        spoken = client.speak("Hello there.", format=name, seed=7, **({} if rate is None else {"sample_rate": rate}))
        decoded = []
        for data in ((work_dir / "out").read_bytes(), spoken):
            with av.open(io.BytesIO(data)) as file:
                assert file.streams.audio[0].rate == (rate or 8_000)
                decoded.append(np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)]))
        assert decoded[0].size == decoded[1].size == 12 * 1920 * (rate or 8_000) // 24_000
        # The command resamples 16-bit samples, the service those of the engine.
        assert np.corrcoef(decoded[0], decoded[1])[0, 1] > 0.999
    assert cli.main(["speak", "Hi.", "-o", "out.mp3", "--sample-rate", "9000"]) == ExitStatus.USAGE
    assert not (work_dir / "out.mp3").exists()


def test_a_wav_file_has_its_size(work_dir: Path) -> None:
    assert cli.main(["speak", "Hello there.", "-o", "out.wav"]) == 0
    with wave.open("out.wav") as file:
        assert file.getnframes() == 12 * 1920


def test_the_voice_option_changes_the_audio(client: CsmClient, work_dir: Path) -> None:
    client.add_voice(recording(440), voice_id="mine.wav")
    for name, options in (("a", []), ("b", ["--voice", "mine.wav"]), ("c", ["--voice", "speaker_7"])):
        assert cli.main(["speak", "Hi.", "-o", f"{name}.pcm", *options]) == 0
    assert len({(work_dir / f"{name}.pcm").read_bytes() for name in "abc"}) == 3
    client.delete_voice("mine.wav")


def test_a_script_is_spoken_as_a_dialogue(client: CsmClient, work_dir: Path) -> None:
    (work_dir / "play.txt").write_text("Ann: Hello.\n\nspeaker_2: Hi.\n  You?\n", encoding="utf-8")
    command = ["speak", "--dialogue", "play.txt", "-o", "play.pcm", "--gap-ms", "100", "--subtitles", "play.srt"]
    assert cli.main([*command, "--voice", "Ann=speaker_1", "--seed", "7"]) == 0
    turns = [("speaker_1", "Hello."), ("speaker_2", "Hi. You?")]
    spoken = (work_dir / "play.pcm").read_bytes()
    assert len(spoken) == 14 * FRAME_BYTES + 4800
    assert spoken == client.dialogue(turns, gap_ms=100, format="raw_pcm", seed=7)
    assert "--> 00:00:00,480\nHello.\n" in (work_dir / "play.srt").read_text(encoding="utf-8")
    named = ["speak", "--dialogue", "play.txt", "-o", "play.pcm", "--subtitles", "play.vtt", "--voice", "Ann=speaker_1"]
    assert cli.main(named) == 0
    subtitles = (work_dir / "play.vtt").read_text(encoding="utf-8")
    assert "--> 00:00:00.480\n<v Ann>Hello.\n" in subtitles
    assert "\n<v speaker_2>Hi.\n" in subtitles
    assert cli.main(command) == ExitStatus.USAGE  # Ann has no voice
    assert cli.main([*command, "Hello."]) == ExitStatus.USAGE


def test_piped_text_is_spoken_before_it_ends(work_dir: Path) -> None:
    process = start("speak", "-o", "-")
    assert process.stdin is not None
    with process, process.stdin as stdin:
        stdin.write(b"Hello there. And")
        stdin.flush()
        spoken = read(process, 44 + 12 * FRAME_BYTES)
        assert spoken.startswith(b"RIFF")
        stdin.write(b" bye.")
        stdin.close()
        assert len(read(process, -1)) == 8 * FRAME_BYTES
    assert process.returncode == 0


def test_subtitles_are_those_of_the_whole_audio(work_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process = start("speak", "-o", "out.wav", "--subtitles", "out.srt", "--seed", "7")
    process.communicate(b"Hello there. And bye.", timeout=60)
    assert process.returncode == 0
    assert Path("out.srt").read_text() == (  # two requests; one frame of 80 ms for each character
        "1\n00:00:00,000 --> 00:00:00,960\nHello there.\n\n2\n00:00:00,960 --> 00:00:01,600\nAnd bye.\n\n"
    )
    with wave.open("out.wav") as file:
        assert file.getnframes() == 20 * 1920

    assert cli.main(["speak", "Hello there.", "-o", "out.mp3", "--subtitles", "out.VTT"]) == 0
    assert Path("out.VTT").read_text() == "WEBVTT\n\n1\n00:00:00.000 --> 00:00:00.960\nHello there.\n\n"
    assert cli.main(["speak", ABORTED, "-o", "cut.wav", "--subtitles", "cut.srt"]) == ExitStatus.CUT
    assert sorted(os.listdir()) == ["out.VTT", "out.mp3", "out.srt", "out.wav"]
    capfd.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["speak", "Hi.", "-o", "out.wav", "--subtitles", "out.txt"])
    assert "must be .srt or .vtt" in capfd.readouterr().err


def test_without_an_output_the_audio_is_played(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = work_dir / "aplay"
    program.write_text("#!/bin/sh\nexec cat > played\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{work_dir}:/usr/bin:/bin")
    monkeypatch.setattr("app.cli.player.PLAYERS", [each for each in PLAYERS if each.name == "aplay"])
    assert cli.main(["speak", "Hello there."]) == 0
    assert (work_dir / "played").stat().st_size == 12 * FRAME_BYTES


def test_a_terminal_shows_progress(work_dir: Path) -> None:
    master, terminal = os.openpty()
    with start("speak", "Hello there.", "-o", "out.wav", stderr=terminal) as process:
        os.close(terminal)
        output = b""
        while b"\n" not in output:
            output += os.read(master, 65536)
    os.close(master)
    assert process.returncode == 0
    assert re.search(rb"out\.wav: 1\.0 s of speech, first audio after \d\.\d\d s", output)


def test_an_aborted_stream_is_reported_and_leaves_no_file(work_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["speak", ABORTED, "-o", "out.wav"]) == 6
    assert "incomplete" in capfd.readouterr().err
    assert list(work_dir.iterdir()) == []


def test_an_interrupt_frees_the_slot(server: Server, work_dir: Path, client: CsmClient) -> None:
    ended = len(server.outcomes())
    with start("speak", LONG_TEXT, "-o", "-") as process:
        assert len(read(process, 44 + FRAME_BYTES)) > 44
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 130
    server.wait_until(lambda: server.outcomes()[ended:] == ["left"])
    assert client.speak("Hi.")


def test_a_closed_pipe_ends_the_command_silently(server: Server, work_dir: Path, client: CsmClient) -> None:
    ended = len(server.outcomes())
    with start("speak", LONG_TEXT, "-o", "-") as process:
        read(process, 44)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141
    server.wait_until(lambda: server.outcomes()[ended:] == ["left"])


def test_busy_has_its_own_exit_status(work_dir: Path, client: CsmClient, capfd: pytest.CaptureFixture[str]) -> None:
    with client.stream(LONG_TEXT) as speech:
        next(speech)
        assert cli.main(["speak", "Hi.", "-o", "out.wav", "--retries", "0"]) == 5
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_wrong_key_is_reported_but_not_shown(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEY", "s3cret")
    assert cli.main(["speak", "Hi.", "-o", "out.wav"]) == 4
    assert cli.main(["voices", "list"]) == 4
    output = capfd.readouterr()
    assert output.err.count("set API_KEY") == len(output.err.splitlines()) == 2
    assert "s3cret" not in output.err + output.out


def test_a_refused_connection_is_reported(work_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert cli.main(["voices", "list", "--url", url]) == 3
    assert re.fullmatch(rf"csm-serve: cannot connect to {url} .*--url.*\n", capfd.readouterr().err)


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
def test_every_error_is_one_line(
    arguments: list[str], status: int, words: str, work_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == status
    output = capfd.readouterr()
    assert re.fullmatch(rf"csm-serve: .*{re.escape(words)}.*\n", output.err)
    assert list(work_dir.iterdir()) == []


# ---- chat


def test_piped_lines_are_turns_whose_answers_are_written(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = "Hello there.\n/voice speaker_3\n\nAnd you?\n/history\n/save said.txt\n/quit\nNever.\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert cli.main(["chat", "-o", "spoken"]) == 0
    shown = capfd.readouterr()
    history = "You: Hello there.\nAssistant: Hello there.\nYou: And you?\nAssistant: And you?\n"
    assert shown.out == f"Hello there.\nAnd you?\n{history}"
    assert "repeats" in shown.err
    assert (work_dir / "said.txt").read_text(encoding="utf-8") == history
    for name, characters in (("001.wav", 12), ("002.wav", 8)):
        with wave.open(str(work_dir / "spoken" / name)) as file:
            assert (file.getframerate(), file.getnframes()) == (24_000, characters * 1920)


def test_chat_without_speech_or_loudspeaker(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    for options in (["--text-only"], []):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hi.\n"))
        assert cli.main(["chat", *options]) == 0
        shown = capfd.readouterr()
        assert shown.out == "Hi.\n"
        assert (work_dir / "csm-chat" / "001.wav").exists() == (options == [])
    assert "pip install sounddevice" in shown.err
    assert "csm-chat/" in shown.err


@pytest.mark.parametrize(
    ("line", "options", "words"),
    [
        ("Hi.", ["--voice", "nobody"], "nobody"),
        ("/voice nobody", [], "nobody"),
        ("/sing", [], "/help"),
        ("[raise@1]Hi.", ["-o", "x"], "engine"),
    ],
)
def test_chat_fails_in_one_line(
    line: str,
    options: list[str],
    words: str,
    work_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{line}\n"))
    assert cli.main(["chat", *(options or ["--text-only"])]) in (ExitStatus.FAILED, ExitStatus.REFUSED)
    assert words in capfd.readouterr().err.splitlines()[-1]


# ---- voices


def test_voices_are_added_listed_replaced_and_removed(work_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        assert cli.main(["voices", *arguments]) == 0
        return capfd.readouterr().out

    (work_dir / "amy.wav").write_bytes(recording(300))
    (work_dir / "amy.txt").write_text("What she says.", encoding="utf-8")
    assert "--voice amy.wav" in run("add", "amy.wav")
    assert "--voice bob" in run("add", "amy.wav", "--name", "bob", "--transcript", "")
    assert run("list") == "amy.wav\nbob\n"
    amy, bob = run("list", "--long").splitlines()
    assert re.match(r"amy\.wav +2\.0 s +transcript +uploaded +20\d\d-", amy)
    assert "no transcript" in bob
    assert cli.main(["voices", "add", "amy.wav"]) == 4
    assert "amy.wav" in capfd.readouterr().err
    (work_dir / "amy.wav").write_bytes(recording(600))
    assert "was replaced" in run("add", "amy.wav", "--replace")
    for name in ("amy.wav", "bob"):
        assert name in run("remove", name)
    assert run("list") == ""


# ---- the client itself


def test_the_client_generates_speech_and_reads_status(client: CsmClient) -> None:
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


def test_the_client_raises_on_an_aborted_stream(client: CsmClient) -> None:
    with pytest.raises(StreamCut):
        client.speak(ABORTED)


def test_the_client_raises_unauthorized_for_a_wrong_key(server: Server) -> None:
    with CsmClient(server.url, "wrong") as stranger, pytest.raises(Unauthorized):
        stranger.add_voice(bytes(5_000_000), voice_id="large.wav")


@pytest.mark.anyio
async def test_the_async_client_generates_speech_and_frees_its_slot(server: Server) -> None:
    async with AsyncCsmClient(server.url, KEY, retries=5) as client:
        ended = len(server.outcomes())
        async with client.stream(LONG_TEXT, format="mp3") as speech:
            async for data in speech:
                assert data
                break
        server.wait_until(lambda: server.outcomes()[ended:] == ["left"])
        assert len(await client.speak("Hi.", format="raw_pcm")) == 3 * FRAME_BYTES
        with pytest.raises(StreamCut):
            await client.speak(ABORTED)
        assert (await client.health()).ready
