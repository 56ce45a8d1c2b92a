"""scripts/make-venv: the choice of a Python, and the advice without one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/make-venv"
FITS = 'case "$*" in --version) echo Python 3.12;; *"-m venv"*) echo "$0" > made;; esac'
NO_VENV = 'case "$*" in *ensurepip*) exit 1;; esac'
TOO_OLD = "exit 1"
SYSTEMS = {
    "debian 13": "ID=debian\nVERSION_ID=13",
    "debian testing": 'PRETTY_NAME="Debian GNU/Linux forky/sid"\nID=debian',
    "debian 11": "ID=debian\nVERSION_ID=11",
    "ubuntu 24.04": 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"',
    "ubuntu 22.04": 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"',
    "mint 22": 'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="22"',
    "fedora 43": "ID=fedora\nVERSION_ID=43",
    "rocky 9": 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"',
    "rhel 10": 'ID="rhel"\nID_LIKE="centos fedora"\nVERSION_ID="10.0"',
    "amazon 2023": 'ID="amzn"\nID_LIKE="fedora"\nVERSION_ID="2023"',
    "arch": "ID=arch",
    "manjaro": "ID=manjaro\nID_LIKE=arch",
    "leap 15.6": 'ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"',
    "tumbleweed": 'ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\nVERSION_ID="20260101"',
    "alpine": "ID=alpine\nVERSION_ID=3.22",
    "nixos": "ID=nixos",
}


class Machine:
    """A PATH with fake programs, and an os-release file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "bin"
        self.path.mkdir()
        self.install("rm", 'exec /bin/rm "$@"')
        self.install("id", "echo 1000")

    def install(self, name: str, script: str) -> Path:
        program = self.path / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        return program

    def run(self, system: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        release = self.folder / "os-release"
        if system:
            release.write_text(SYSTEMS[system] + "\n", encoding="utf-8")
        return subprocess.run(
            ["/bin/sh", SCRIPT, "venv"],
            cwd=self.folder,
            env={"PATH": str(self.path), "OS_RELEASE": str(release), **environ},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    @property
    def made_with(self) -> str:
        """The interpreter that created the virtual environment."""
        return (self.folder / "made").read_text(encoding="utf-8").strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_first_supported_python_with_venv_is_used(machine: Machine) -> None:
    machine.install("python3", TOO_OLD)
    machine.install("python3.14", NO_VENV)
    fits = machine.install("python3.12", FITS)
    machine.install("python3.11", FITS)
    assert machine.run().returncode == 0
    assert machine.made_with == str(fits)


def test_a_usable_venv_is_kept(machine: Machine) -> None:
    machine.install("python3", FITS)
    kept = machine.folder / "venv/bin/python"
    kept.parent.mkdir(parents=True)
    kept.write_text("#!/bin/sh\n", encoding="utf-8")
    kept.chmod(0o755)
    assert machine.run().returncode == 0
    assert not (machine.folder / "made").exists()


def test_with_the_python_variable_no_other_interpreter_is_tried(machine: Machine) -> None:
    machine.install("python3", FITS)
    ran = machine.run("debian 13", PYTHON="python2")
    assert ran.returncode == 1
    assert "PYTHON is 'python2'" in ran.stderr


@pytest.mark.parametrize(
    ("system", "command"),
    [
        ("debian 13", "apt install python3 python3-venv"),
        ("debian testing", "apt install python3 python3-venv"),
        ("ubuntu 24.04", "apt install python3 python3-venv"),
        ("ubuntu 22.04", "apt install python3.11 python3.11-venv"),
        ("mint 22", "apt install python3 python3-venv"),
        ("fedora 43", "dnf install python3"),
        ("rocky 9", "dnf install python3.12"),
        ("rhel 10", "dnf install python3.12"),
        ("amazon 2023", "dnf install python3.12"),
        ("arch", "pacman -S python"),
        ("manjaro", "pacman -S python"),
        ("leap 15.6", "zypper install python311"),
        ("tumbleweed", "zypper install python313"),
    ],
)
def test_without_a_python_the_install_command_is_printed(machine: Machine, system: str, command: str) -> None:
    ran = machine.run(system)
    assert ran.returncode == 1
    assert "needs Python 3.11 to 3.14" in ran.stderr
    assert ran.stderr.splitlines()[-1] == f"  sudo {command}"
    assert not (machine.folder / "venv").exists()
    machine.install("id", "echo 0")
    assert machine.run(system).stderr.splitlines()[-1] == f"  {command}"


@pytest.mark.parametrize("system", ["debian 11", "nixos", ""])
def test_on_unknown_systems_general_advice_is_printed(machine: Machine, system: str) -> None:
    ran = machine.run(system)
    assert ran.returncode == 1
    assert "uv python install 3.13" in ran.stderr
    assert "sudo" not in ran.stderr


def test_alpine_is_reported_as_unsupported(machine: Machine) -> None:
    ran = machine.run("alpine")
    assert ran.returncode == 1
    assert "glibc" in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["python3", "python3.12"])
@pytest.mark.parametrize("system", ["debian 13", "ubuntu 22.04", "ubuntu 24.04"])
def test_a_python_without_venv_names_its_package(machine: Machine, system: str, name: str) -> None:
    machine.install(name, NO_VENV)
    ran = machine.run(system)
    assert ran.returncode == 1
    assert f"{name} has no venv module" in ran.stderr
    assert ran.stderr.splitlines()[-1] == f"  sudo apt install {name}-venv"


def test_a_python_of_uv_is_used(machine: Machine) -> None:
    managed = machine.install("managed", FITS)
    machine.install("uv", f'case "$*" in "python find"*) echo {managed};; *) exit 1;; esac')
    assert machine.run("debian 13").returncode == 0
    assert machine.made_with == str(managed)


def test_uv_downloads_a_python_if_it_has_none(machine: Machine) -> None:
    managed = machine.install("managed", FITS)
    machine.install(
        "uv",
        f'case "$*" in "python install"*) : > downloaded;; *) [ -e downloaded ] && echo {managed};; esac',
    )
    assert machine.run("debian 13").returncode == 0
    assert machine.made_with == str(managed)


def test_if_uv_cannot_download_the_install_command_is_printed(machine: Machine) -> None:
    machine.install("uv", "echo offline >&2; exit 2")
    ran = machine.run("debian 13")
    assert ran.returncode == 1
    assert "uv has no supported Python and cannot download one." in ran.stderr
    assert ran.stderr.splitlines()[-1] == "  sudo apt install python3 python3-venv"


def test_the_systems_python_is_preferred_to_uvs(machine: Machine) -> None:
    fits = machine.install("python3", FITS)
    machine.install("uv", "echo /nowhere/python3")
    assert machine.run().returncode == 0
    assert machine.made_with == str(fits)
