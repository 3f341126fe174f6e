"""Servers that only the benchmarks need: those of bare_servers.txt, in a virtual environment of their own beside it. A
server that cannot be installed is left out: bjoern is compiled, with the header of libev (Debian's libev-dev)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".venv"
PYTHON = FOLDER / "bin" / "python"
PINNED = dict(line.split("==") for line in (HERE / "bare_servers.txt").read_text().split())


def is_installed(name: str) -> bool:
    """Whether this one is there, in the version that is pinned."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return (FOLDER / "lib" / python / "site-packages" / f"{name}-{PINNED[name]}.dist-info").is_dir()


def install() -> None:
    """Make the environment, and install what is missing, each on its own; what fails is told, and is no error."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    for name, version in PINNED.items():
        if not is_installed(name):
            command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
            done = subprocess.run([*command, f"{name}=={version}"], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name} {version} cannot be installed:\n{done.stderr}", file=sys.stderr)
