"""`make test-image`: build the image with buildah, run it as its own user, and speak with it.

Checks that the compilers work (scripts/try_compilers.py), that every voice, every format and the page with all its
files are served and that an upload becomes a voice (scripts/try_service.py), that the health check passes, that no
package is in the image which only tests need, that it holds less than 7.3 GB, and that the commands of the
documentation work. Needs root. Where no registry of images can be reached, `--stand-in trixie` builds a base of
Debian's packages with mmdebstrap. `--volume` mounts settings of this machine while the image is built.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .test_fresh import Failed, apt_options, free_port, wait_until_ready

PROJECT = Path(__file__).resolve().parent.parent
MOST_BYTES = 7_300_000_000
UID = 10001
KEY = "key-of-the-test"
START_SECONDS = 300.0
STOP_SECONDS = 60.0


def buildah(*arguments: str) -> str:
    """What a command of buildah prints. Raises Failed if it fails."""
    ran = subprocess.run(["buildah", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        raise Failed(f"buildah {shlex.join(arguments)[:200]} ended with {ran.returncode}\n{ran.stdout[-3000:]}")
    return ran.stdout.strip()


def build(base: str | None, volumes: list[str]) -> str:
    """The id of an image of this checkout."""
    with tempfile.NamedTemporaryFile("r", encoding="ascii") as file:
        command = ["buildah", "build", "--isolation", "chroot", "--format", "docker", "--iidfile", file.name]
        command += [f"--volume={each}" for each in volumes]
        command += [f"--build-arg=BASE={base}"] if base else []
        if subprocess.run([*command, "."], cwd=PROJECT, check=False).returncode:
            raise Failed("the image cannot be built")
        return file.read().strip().removeprefix("sha256:")


def stand_in(suite: str) -> str:
    """The id of a base image with nothing but a minimal Debian in it."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "root.tar"
        if subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", *apt_options(), suite, archive], check=False
        ).returncode:
            raise Failed(f"mmdebstrap cannot build {suite}")
        container = buildah("from", "scratch")
        try:
            buildah("add", container, str(archive), "/")
            return buildah("commit", "--quiet", container)
        finally:
            buildah("rm", container)


class Container:
    """One container of the image, whose processes run as the image's user and with its settings."""

    def __init__(self, image: str) -> None:
        self._id = buildah("from", "--pull-never", image)
        self.config: dict[str, Any] = json.loads(buildah("inspect", self._id))["Docker"]["config"]

    def command(self, *arguments: str, **environ: str) -> list[str]:
        variables = [f"--env={name}={value}" for name, value in environ.items()]
        return ["buildah", "run", "--isolation", "chroot", *variables, self._id, "--", *arguments]

    def run(self, *arguments: str, **environ: str) -> str:
        return buildah(*self.command(*arguments, **environ)[1:])

    def run_script(self, name: str, *arguments: str, **environ: str) -> None:
        """Run a script of this checkout with the image's Python. Raises Failed if it fails."""
        with (PROJECT / name).open("rb") as script:
            command = self.command("python", "-", *arguments, **environ)
            if subprocess.run(command, stdin=script, check=False).returncode:
                raise Failed(f"{name} failed in the image")

    @contextmanager
    def serving(self, port: int) -> Iterator[None]:
        """The image's own command, ready to speak."""
        command = self.command(*self.config["Cmd"], API_KEY=KEY, PORT=str(port))
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                wait_until_ready(process, f"http://127.0.0.1:{port}/readyz", START_SECONDS)
                yield
            except Failed:
                log.seek(0)
                print(log.read().decode()[-5000:])
                raise
            finally:
                stop(process)

    @property
    def root(self) -> Path:
        return Path(buildah("mount", self._id))

    def remove(self) -> None:
        buildah("rm", self._id)


def service_of(pid: int) -> int | None:
    """The first process below this one that runs as the image's user: gunicorn's master."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):  # buildah starts processes from any of its threads
        for child in children.read_text(encoding="ascii").split():
            if os.stat(f"/proc/{child}").st_uid == UID:
                return int(child)
            if found := service_of(int(child)):
                return found
    return None


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the service in order, and buildah, which waits for it. Raises Failed after STOP_SECONDS."""
    if process.poll() is not None:
        return
    service = service_of(process.pid)
    if service is None:
        process.kill()
        process.wait()
        raise Failed(f"no process of the container runs as {UID}")
    os.kill(service, signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.kill(service, signal.SIGKILL)
        process.kill()
        process.wait()
        raise Failed(f"the service still ran {STOP_SECONDS:.0f} s after SIGTERM") from None


def only_for_tests() -> set[str]:
    """The packages that the lock of the tests has and the lock of the service lacks."""

    def names(lock: str) -> set[str]:
        text = (PROJECT / lock).read_text(encoding="utf-8")
        return {normalized(each) for each in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)}

    return names("requirements-dev.lock") - names("requirements.lock")


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(container: Container) -> set[str]:
    program = "import importlib.metadata as m; print(*(each.name for each in m.distributions()))"
    return {normalized(name) for name in container.run("python", "-c", program).split()}


def size(root: Path) -> int:
    """Bytes of the files below, each file once."""
    return int(subprocess.run(["du", "-sB1", "-x", root], capture_output=True, text=True, check=True).stdout.split()[0])


def check(container: Container) -> None:
    """Raises Failed at the first thing that is not as it should be."""
    uid = container.run("id", "-u")
    if uid != str(UID):
        raise Failed(f"the image runs as {uid}, not as {UID}")
    if extra := installed(container) & only_for_tests():
        raise Failed(f"only tests need what the image has: {', '.join(sorted(extra))}")
    held = size(container.root)
    print(f"== {held / 1e9:.2f} GB, user {uid}, no package of the tests", flush=True)
    check_docker_lines(container.config)
    container.run_script("scripts/try_compilers.py")
    port = free_port()
    with container.serving(port):
        print("== ready; every voice, an upload, every format", flush=True)
        (kind, *probe) = container.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        container.run(*probe, PORT=str(port))
        container.run_script("scripts/try_service.py", f"http://127.0.0.1:{port}", API_KEY=KEY)
        print("== the commands of the documentation", flush=True)
        run_documented(f"http://127.0.0.1:{port}")
    if held >= MOST_BYTES:
        raise Failed(f"the image holds {held / 1e9:.2f} GB; the limit is {MOST_BYTES / 1e9:.1f} GB")


def documented(page: str, heading: str, program: str) -> list[str]:
    """The commands of a program in the console blocks below a heading, up to the next one of its level."""
    level = heading.partition(" ")[0]
    text = (PROJECT / page).read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    section = re.split(rf"^#{{1,{len(level)}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    commands = [each for block in blocks for each in re.sub(r"\\\n", "", block).splitlines()]
    return [each for each in commands if each.startswith(f"{program} ")]


def local_command(command: str, url: str) -> str:
    """A documented command with this service's address in place of the one that it shows."""
    return re.sub(r"(?:https://POD_ID-8000\.proxy\.runpod\.net|\blocalhost:8000)", url, command)


def run_documented(url: str) -> None:
    """Run curl's lines of the README and of RunPod's section, which write files of speech. Raises Failed."""
    commands = documented("README.md", "## Generate speech", "curl")
    commands += [each for each in documented("docs/deployment.md", "## RunPod", "curl") if "proxy.runpod.net" in each]
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            local = local_command(command.replace('"voice_id": "amy.wav"', '"voice_id": "speaker_1"'), url)
            environ = os.environ | {"API_KEY": KEY}
            if subprocess.run(["sh", "-c", local], cwd=folder, env=environ, check=False, timeout=120).returncode:
                raise Failed(f"this command of the documentation fails: {local}")
        made = {each.name: each.stat().st_size for each in Path(folder).iterdir()}
    if len(commands) < 3 or not made or min(made.values()) < 1000:
        raise Failed(f"{len(commands)} commands of the documentation wrote {made}")
    print(f"{len(commands)} commands wrote {made}", flush=True)


def check_docker_lines(config: dict[str, Any]) -> None:
    """Raises Failed where the documented `docker run` mounts or publishes what the image does not declare."""
    line = " ".join(documented("docs/deployment.md", "## Docker", "docker"))
    volumes = set(re.findall(r"-v \S+?:(\S+)", line))
    ports = {f"{each}/tcp" for each in re.findall(r"-p \S+:(\d+)", line)}
    if volumes != set(config["Volumes"]) or ports != set(config["ExposedPorts"]):
        raise Failed(f"docs/deployment.md runs the image with {volumes} and {ports}, which differs from the Dockerfile")


def missing() -> str | None:
    """Why it cannot run here."""
    if os.geteuid() != 0:
        return "it needs root: sudo make test-image"
    if not shutil.which("buildah"):
        return "buildah is not on PATH; on Debian and Ubuntu: apt install buildah"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-image", description=__doc__)
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", help="the image to build on, instead of the Dockerfile's")
    base.add_argument("--stand-in", metavar="SUITE", help="build on a Debian made by mmdebstrap, such as trixie")
    parser.add_argument(
        "--volume", action="append", default=[], metavar="HERE:THERE", help="mount a file while the image is built"
    )
    parsed = parser.parse_args()
    if reason := missing():
        print(f"make test-image cannot run here: {reason}", file=sys.stderr)
        return 2
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, _: sys.exit(128 + number))
    try:
        with ExitStack() as cleanup:
            source = parsed.base
            if parsed.stand_in:
                source = stand_in(parsed.stand_in)
                cleanup.callback(buildah, "rmi", source)
            image = build(source, parsed.volume)
            cleanup.callback(buildah, "rmi", image)
            container = Container(image)
            cleanup.callback(container.remove)
            check(container)
    except Failed as failure:
        print(f"\nFailed: {failure}")
        return 1
    print("\nAll passed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
