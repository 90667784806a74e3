"""An emulated aarch64 machine in a folder: qemu, Debian's Python for arm64, and the wheels that a Jetson would take.

Nothing is installed on the host and no root is needed: apt works on lists and a cache of its own, packages are
unpacked. The ``python`` of an environment is a script that starts qemu. It is what ``sys.executable`` names there, so
emulated programs can start children.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
# The oldest ONNX Runtime that the device's side runs with, and the one of constraints.txt.
OLDEST, NEWEST = "1.23.2", "newest"
DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
QEMU, QEMU_PACKAGE = "qemu-aarch64-static", "qemu-user-static"
# JetPack 6 has glibc 2.35.
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
# The variable that names the processor, in qemu's words.
PROCESSOR = "BALCONY_ARM_CPU"
TESTS_NEED = ("hypothesis", "pytest", "pytest-xdist")

APT = """\
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""
# Libraries read this file; the host's would tell them of x86, which ends one of them (cpuinfo, in 1.32).
CORE = """\
processor\t: {number}
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

"""
WRAPPER = """\
#!/bin/sh
# Python sees itself as this file: what it starts is emulated too.
exec '{qemu}' -cpu "${{{processor}:-max}}" -L '{root}' -0 "$0" '{python}' "$@"
"""


def prepare(folder: Path) -> dict[str, Path]:
    """The ``python`` of each environment below ``folder``, by its ONNX Runtime (OLDEST, NEWEST); made if need be.

    Ends the program with a message where that cannot be done.
    """
    folder = folder.resolve()
    pythons = {version: folder / f"onnxruntime-{version}" / "bin" / "python" for version in (OLDEST, NEWEST)}
    ready, recipe = folder / ".ready", _recipe()
    if ready.is_file() and ready.read_text() == recipe:
        return pythons
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    missing = [tool for tool in ("apt-get", "dpkg", "dpkg-deb", "tar") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"test-arm takes aarch64 Python from Debian's packages, and {missing[0]} is not here")
    qemu = _qemu(folder)
    python = _debian(folder)
    (folder / "root" / "proc").mkdir()
    cores = [CORE.format(number=number) for number in range(os.cpu_count() or 1)]
    (folder / "root" / "proc" / "cpuinfo").write_text("".join(cores))
    _wheels(folder / "common", python, *_dependencies(), *TESTS_NEED, "-c", str(ROOT / "constraints.txt"))
    for version, program in pythons.items():
        home = program.parents[1]
        packages = home / "lib" / python.name / "site-packages"
        wanted = ["onnxruntime", "-c", str(ROOT / "constraints.txt")]
        _wheels(packages, python, "--no-deps", *([f"onnxruntime=={version}"] if version == OLDEST else wanted))
        ours = [folder / "common", ROOT, ROOT / "controller", ROOT / "profiles"]
        (packages / "ours.pth").write_text("".join(f"{path}\n" for path in ours))
        (home / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
        program.parent.mkdir()
        program.write_text(WRAPPER.format(processor=PROCESSOR, qemu=qemu, root=folder / "root", python=python))
        program.chmod(0o755)
        said = subprocess.check_output([program, "-c", "import platform; print(platform.machine())"], text=True)
        assert said.strip() == "aarch64", said
    ready.write_text(recipe)
    return pythons


def _recipe() -> str:
    """A digest of all that decides what is in the folder."""
    files = (Path(__file__), ROOT / "pyproject.toml", ROOT / "constraints.txt")
    return hashlib.sha256(b"\0".join([str(ROOT).encode(), *(file.read_bytes() for file in files)])).hexdigest()


def _qemu(folder: Path) -> Path:
    """The emulator: the host's, or the one in Debian's package."""
    found = shutil.which(QEMU)
    if found is not None:
        return Path(found)
    own = _run("dpkg", "--print-architecture").strip()
    apt = _Apt(folder / "apt" / own, own)
    apt("download", QEMU_PACKAGE)
    (package,) = apt.folder.glob("*.deb")
    # One file of three hundred; tar ends when it has it.
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=-1, stderr=subprocess.DEVNULL) as whole:
        subprocess.run(
            ["tar", "-x", "--occurrence=1", "-C", folder, f"./usr/bin/{QEMU}"], stdin=whole.stdout, check=True
        )
    return folder / "usr" / "bin" / QEMU


def _debian(folder: Path) -> Path:
    """Unpack Debian's Python for arm64 and the libraries it needs; the path of its executable."""
    root = folder / "root"
    apt = _Apt(folder / "apt" / "arm64", "arm64")
    apt("install", "--download-only", *DEBIAN)
    for package in sorted((apt.folder / "cache" / "archives").glob("*.deb")):
        _run("dpkg", "-x", str(package), str(root))
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")  # a package of its own makes this link since Debian 13
    (python,) = (path for path in (root / "usr" / "bin").glob("python3.*") if path.name[8:].isdigit())
    return python


class _Apt:
    """apt-get for an architecture, with lists and a cache of its own; the mirror is the host's."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self.folder = folder
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "apt.conf").write_text(APT.format(architecture=architecture, folder=folder))
        self("update")

    def __call__(self, *arguments: str) -> None:
        command = ["env", f"APT_CONFIG={self.folder / 'apt.conf'}", "apt-get", "-qqy", *arguments]
        _run(*command, folder=self.folder)


def _wheels(into: Path, python: Path, *requirements: str) -> None:
    """Unpack the wheels that pip finds for this Python on aarch64."""
    platforms = [f"--platform={name}" for name in PLATFORMS]
    version = f"--python-version={python.name.removeprefix('python')}"
    quiet = ["-q", "--disable-pip-version-check", "--no-warn-conflicts"]
    command = [sys.executable, "-m", "pip", "install", *quiet, "--target", str(into), "--only-binary=:all:"]
    _run(*command, "--no-compile", "--implementation=cp", version, *platforms, *requirements)


def _dependencies() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: list[str] = tomllib.load(file)["project"]["dependencies"]
    return found


def _run(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def refuse_elsewhere() -> None:
    """End the program where there is nothing to emulate, or nothing that emulates."""
    if platform.system() != "Linux":
        raise SystemExit("test-arm needs Linux: qemu emulates its programs, not a machine")
    if platform.machine() == "aarch64":
        raise SystemExit("this machine is aarch64 itself: run make test")
