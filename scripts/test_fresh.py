"""`make test-fresh`: the README's two commands on a Debian that has Python, venv and make, and nothing else.

For each system it builds a root with mmdebstrap (at most once a day), puts the commit in it (`git archive HEAD`), and
as an ordinary user runs `make serve`, uses the service (scripts/try_service.py), stops it with SIGTERM, and runs
`make test`. Each command runs in a mount and a PID namespace of its own, so that no mount and no process outlives it;
the root is a temporary directory. The network is this machine's, and so are the settings that reach a package index
(pip's, uv's, proxies, certificates). Roots and downloaded packages, about 11 GB, are kept between the runs in
~/.cache/csm-serve-fresh, which is mounted as /home: on one file system uv links packages instead of copying them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = "python3,python3-venv,make"
USER, UID = "stranger", 1000
HOMES = Path.home() / ".cache/csm-serve-fresh"
CACHES = {"PIP_CACHE_DIR": "pip", "UV_CACHE_DIR": "uv"}
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
START_SECONDS = 1800.0  # the installation of 7 GB included
STOP_SECONDS = 60.0
REMOVE_SECONDS = 30.0
# What reaches a package index from here. Directories of this machine are left out.
_SETTINGS = re.compile(
    r"(PIP|UV)_(?!CACHE_DIR).*|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|(https?|no|all)_proxy", re.IGNORECASE
)
_APT_SETTINGS = re.compile(r'^Acquire::(Check-Valid-Until|Check-Date|Retries|Force|http).* "[^"]+";$', re.MULTILINE)
_INSTALL = [".venv/bin/uv", "pip", "install", "--python", ".venv/bin/python", "--no-deps"]
_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/uv/uv.toml")


class Failed(Exception):
    """What did not work, in a line."""


class NoDebian(Exception):
    """Why no Debian can be installed here, in a line."""


class FreshSystem:
    """A Debian root that has what the README asks for, with the project in an ordinary user's home.

    root: an empty directory. home: one in HOMES. variables: of the user's environment.
    """

    def __init__(self, suite: str, root: Path, home: Path, mirror: str | None, variables: Mapping[str, str]) -> None:
        self._root = root
        self._home = f"/home/{home.name}"
        self._environ = index_settings()
        self._variables = variables
        _run(["tar", "--extract", "--numeric-owner", "--directory", str(root), "--file", str(debian(suite, mirror))])
        for file in [*_FILES, *filter(os.path.isfile, self._environ.values())]:
            if os.path.isfile(file):
                copy = root / file.lstrip("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        _run(["chroot", str(root), "useradd", "--uid", str(UID), "--home-dir", self._home, "--shell", "/bin/sh", USER])
        self.project = home / "csm-serve"
        self.project.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=PROJECT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "--extract", "--directory", self.project], input=archive, check=True)
        for folder in CACHES.values():
            (HOMES / folder).mkdir(exist_ok=True)
            os.chown(HOMES / folder, UID, UID)
        _run(["chown", "--recursive", f"{UID}:{UID}", str(home)])

    def command(self, script: str) -> list[str]:
        """Runs a shell script in the project as the user. The script replaces its shell, and ends with this process."""
        root = shlex.quote(str(self._root))
        mounts = [
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /sys {root}/sys",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/dev/shm",
            f"mount -t devpts -o newinstance,ptmxmode=0666 devpts {root}/dev/pts",
            f"mount --bind {shlex.quote(str(HOMES))} {root}/home",
        ]
        caches = {name: f"/home/{folder}" for name, folder in CACHES.items()}
        own = {"HOME": self._home, "USER": USER, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        environ = {**self._environ, **own, **caches, **self._variables}
        variables = shlex.join(f"{name}={value}" for name, value in environ.items())
        inside = shlex.join(["sh", "-ec", f"cd {self._home}/csm-serve; {script}"])
        enter = f"exec chroot --userspec={UID}:{UID} {root} env -i {variables} {inside}"
        return [*NAMESPACES, "sh", "-ec", "; ".join([*mounts, enter])]

    def run(self, script: str) -> None:
        """Raises Failed if the script does."""
        _run(self.command(f"exec {script}"))

    @contextmanager
    def serving(self, port: int) -> Iterator[Path]:
        """`make serve`, ready to speak; yields its log. Afterwards it must end in order after SIGTERM."""
        log = self._root / "serve.log"
        with log.open("wb") as output:
            process = subprocess.Popen(self.command(f"exec make serve PORT={port}"), stdout=output, stderr=output)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}/readyz", START_SECONDS)
            yield log
            (make,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
            os.kill(int(make), signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                raise Failed(f"`make serve` still runs {STOP_SECONDS:.0f} s after SIGTERM") from None
            if "Shutting down: Master" not in log.read_text(encoding="utf-8"):
                raise Failed("gunicorn's master did not end in order after SIGTERM")
        except Failed:
            print(log.read_text(encoding="utf-8")[-5000:])
            raise
        finally:
            process.kill()
            process.wait()


def debian(suite: str, mirror: str | None) -> Path:
    """A tar of a root with PACKAGES, at most a day old. Raises NoDebian if it cannot be built.

    Of the architecture ARCH, if it is set: one that this machine runs, itself or by qemu-user and binfmt_misc.
    """
    options = ["--variant=minbase", f"--include={PACKAGES}", *apt_options()]
    if architecture := os.environ.get("ARCH"):
        options.append(f"--architectures={architecture}")
    source = [mirror] if mirror else []
    key = hashlib.sha256(shlex.join([*options, *source]).encode()).hexdigest()[:16]
    tar = HOMES / f"roots/{suite}-{key}-{date.today()}.tar"
    if tar.exists():
        return tar
    tar.parent.mkdir(exist_ok=True)
    unfinished = tar.with_suffix(f".{os.getpid()}")
    build = ["mmdebstrap", "--quiet", "--mode=root", "--format=tar", *options, suite, str(unfinished), *source]
    try:
        if status := subprocess.run([*NAMESPACES, "--mount-proc", *build], check=False).returncode:
            raise NoDebian(f"mmdebstrap cannot install {suite} (status {status})")
        for old in tar.parent.glob(f"{suite}-{key}-*.tar"):
            old.unlink()
        return unfinished.rename(tar)
    finally:
        unfinished.unlink(missing_ok=True)


def index_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if _SETTINGS.fullmatch(name) and not os.path.isdir(value)}


def apt_options() -> list[str]:
    """How this machine's apt reaches Debian, as options of mmdebstrap."""
    if not shutil.which("apt-config"):
        return []
    settings = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    return [f"--aptopt={each[0]}" for each in _APT_SETTINGS.finditer(settings)]


def _run(command: list[str]) -> None:
    status = subprocess.run(command, check=False).returncode
    if status:
        raise Failed(f"{shlex.join(command)[:200]} … ended with {status}")


def wait_until_ready(process: subprocess.Popen[bytes], url: str, seconds: float) -> None:
    """Returns when the URL answers 200. Raises Failed if the process ends before, or after so many seconds."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"the service ended with {process.returncode} before it was ready")
        try:
            if direct.open(url, timeout=10).status == 200:
                return
        except OSError:
            pause.wait(0.2)
    raise Failed(f"{url} was not 200 within {seconds:.0f} s")


def printed_line(log: Path) -> str:
    """The line of `csm-serve speak` that the service printed for who has no curl."""
    found = re.search(r"^or, without curl:\n(.+)$", log.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise Failed("the service printed no line to paste")
    return found[1]


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder that is removed also while processes which have just been killed still end in it."""
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    try:
        yield Path(folder)
    finally:
        deadline = time.monotonic() + REMOVE_SECONDS
        remove = ["rm", "--recursive", "--force", "--one-file-system", folder]
        while subprocess.run(remove, check=False).returncode and time.monotonic() < deadline:
            threading.Event().wait(0.2)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def try_system(
    suite: str,
    root: Path,
    home: Path,
    mirror: str | None,
    quick: bool,
    packages: Sequence[str],
    variables: Mapping[str, str],
) -> None:
    """Both commands of the README; raises Failed at the first thing that fails.

    packages: requirements that are installed in place of what the lock has.
    """
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"== {suite}, {time.monotonic() - began:.0f} s: {what}", flush=True)

    say(f"building a root with {PACKAGES}")
    system = FreshSystem(suite, root, home, mirror, variables)
    system.run("python3 --version")
    if packages:
        say(f"installing {', '.join(packages)} over the lock")
        system.run("make .venv/.installed" if quick else "make .venv/.installed-dev")
        system.run(shlex.join([*_INSTALL, *packages]))
    say("make serve")
    port = free_port()
    with system.serving(port) as log:
        say("ready; every voice, an upload, every format")
        system.run(f".venv/bin/python -m scripts.try_service http://127.0.0.1:{port}")
        say("the line to paste")
        system.run(shlex.join(["sh", "-c", printed_line(log)]))
        with wave.open(str(system.project / "speech.wav")) as speech:
            if speech.getnframes() < speech.getframerate():
                raise Failed("the line to paste made less than a second of speech")
    say("stopped in order")
    if not quick:
        say("make test")
        system.run("make test ARGS=-q")
    say("passed")


def missing() -> str | None:
    """Why it cannot run here."""
    if os.geteuid() != 0:
        return "it needs root, for chroot and mounts: sudo make test-fresh"
    programs = ("mmdebstrap", "git", "tar", "chroot", "mount", "unshare")
    if lacking := [name for name in programs if not shutil.which(name)]:
        return f"{', '.join(lacking)} is not on PATH; on Debian and Ubuntu: apt install mmdebstrap git"
    if subprocess.run([*NAMESPACES, "true"], check=False).returncode:
        return "this machine allows no new mount and PID namespaces (in a container: --privileged)"
    return None


def cannot_run(reason: str, allowed: bool) -> int:
    """Says so. The exit status is 0 if it is allowed, else 2."""
    print(f"{'Skipped' if allowed else 'Failed'}: make test-fresh cannot run here: {reason}", file=sys.stderr)
    return 0 if allowed else 2


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-fresh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first system alone, without `make test`")
    parser.add_argument("--if-possible", action="store_true", help="succeed where this machine cannot run it")
    parser.add_argument("--mirror", help="Debian's packages from there, instead of from mmdebstrap's default")
    parser.add_argument(
        "--env", action="append", type=_variable, default=[], metavar="NAME=VALUE", help="a setting of the service"
    )
    parser.add_argument(
        "--package", action="append", default=[], metavar="REQUIREMENT", help="another release than the lock's"
    )
    parsed = parser.parse_args()
    variables = dict(parsed.env)
    if reason := missing():
        return cannot_run(reason, parsed.if_possible)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, _: sys.exit(128 + number))
    systems = os.environ.get("SYSTEMS", "trixie testing").split()
    HOMES.mkdir(parents=True, exist_ok=True)
    passed, failures = [], []
    for suite in systems[:1] if parsed.quick else systems:
        with (
            temporary_folder("csm-serve-fresh-") as root,
            temporary_folder("home-", HOMES) as home,
        ):
            try:
                try_system(suite, root, home, parsed.mirror, parsed.quick, parsed.package, variables)
            except Failed as failure:
                failures.append(f"{suite}: {failure}")
                print(f"== {failures[-1]}", flush=True)
            except NoDebian as reason:
                if status := cannot_run(str(reason), parsed.if_possible):
                    return status
            else:
                passed.append(suite)
    print("\n".join(["", *failures]) if failures else f"\nPassed: {', '.join(passed)}." if passed else "")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
