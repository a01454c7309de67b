"""Running `python -m mcp_tornado` to its end."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.integration.server_process import command, environment
from tests.integration.waiting import DEADLINE_SECONDS


def run_command(directory: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a directory; settings are variables without the prefix `MCP_TORNADO_`."""
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment({"SERVER__PORT": 0, **settings}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def error_output(completed: subprocess.CompletedProcess[str]) -> str:
    """Check that a command failed with a message and without a traceback, and return its standard error."""
    assert completed.returncode == 1
    assert "Traceback" not in completed.stderr
    assert "server.started" not in completed.stderr
    return completed.stderr


def install_plugin(directory: Path, distribution: str, scheme: str, module: str) -> None:
    """Make a store plugin that a process finds if it runs in the directory."""
    metadata = directory / f"{distribution}.dist-info"
    metadata.mkdir()
    name, _, number = distribution.partition("-")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    (metadata / "entry_points.txt").write_text(f"[mcp_tornado.stores]\n{scheme} = {module}:factory\n")
