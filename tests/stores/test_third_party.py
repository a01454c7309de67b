"""A third-party store, installed from its wheel in an environment without this repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

REPOSITORY = Path(__file__).parents[2]
PLUGINS = REPOSITORY / "plugins"
SHIPPED = [PLUGINS / name for name in ("sqlite", "redis", "mongodb")]
BLOCKS = re.findall(r"^```\w+\n(.*?)^```$", (PLUGINS / "README.md").read_text(), re.MULTILINE | re.DOTALL)
DEADLINE_SECONDS = 30.0
"""Seconds after which a server counts as not answering."""
BUILD_DEADLINE_SECONDS = 300.0
"""Seconds after which a download, a build or a run of many tests counts as failed."""


def block(beginning):
    """Return the one code block of plugins/README.md that begins with a text."""
    (found,) = [text for text in BLOCKS if text.startswith(beginning)]
    return found


def commands(beginning):
    """Return the lines of the one block of commands in plugins/README.md that begins with a text."""
    found = block(beginning)
    return found.splitlines()


class Environment:
    """A virtual environment in which a user runs commands."""

    def __init__(self, directory):
        self._bin = directory / "bin"

    def variables(self):
        ours = ("MCP_TORNADO_", "PYTHON", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**kept, "PATH": f"{self._bin}:{kept['PATH']}"}

    def run(self, command, directory):
        """Run a shell command, which must succeed, and return its output."""
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=directory,
            env=self.variables(),
            capture_output=True,
            text=True,
            timeout=BUILD_DEADLINE_SECONDS,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    @contextmanager
    def serving(self, command, directory, stop):
        """Run a server on a free port, and end it with a signal."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [self._bin / "mcp-tornado", *shlex.split(command)[1:], "--port", str(port)],
            cwd=directory,
            env=self.variables(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until = time.monotonic() + DEADLINE_SECONDS
            while not _answers(f"http://127.0.0.1:{port}/healthz"):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.send_signal(stop)
            process.communicate(timeout=DEADLINE_SECONDS)


def _answers(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with wheels of mcp-tornado, its extras, and the example as its author publishes it."""
    directory = tmp_path_factory.mktemp("third-party")
    here = Environment(Path(sys.prefix))
    there = Environment(directory / "environment")
    author = Path(shutil.copytree(PLUGINS / "example", directory / "author"))
    projects = shlex.join(map(str, [REPOSITORY, *SHIPPED]))
    with ThreadPoolExecutor(2) as pool:
        for done in [
            pool.submit(here.run, f"python -m pip wheel --quiet --no-deps --wheel-dir wheels {projects}", directory),
            pool.submit(here.run, "python -m venv environment", directory),
        ]:
            done.result()
    there.run('pip install --quiet --find-links wheels "mcp-tornado[sqlite,redis,mongodb]"', directory)
    install_to_develop, _ = commands("pip install pytest")
    there.run(f"{install_to_develop} --quiet", author)
    there.run("pip uninstall --quiet --yes jsonfile-store", author)
    build, install, _ = commands("pip wheel")
    there.run(f"{build} --quiet", author)
    there.run(f"{install} --quiet", author)
    shutil.rmtree(author)
    return there


@pytest.fixture(scope="module")
def listed(environment, tmp_path_factory):
    """The rows that `mcp-tornado stores` prints, with the header row first."""
    *_, command = commands("pip wheel")
    output = environment.run(f"{command} 2>&1", tmp_path_factory.mktemp("listed"))
    return [tuple(line.split()) for line in output.splitlines()]


def test_the_store_passes_the_contract(environment, tmp_path):
    shutil.copytree(PLUGINS / "example" / "tests", tmp_path / "tests")
    _, run_tests = commands("pip install pytest")
    environment.run(f"{run_tests} -q -p no:cacheprovider --junitxml=report.xml", tmp_path)
    cases = list(ElementTree.parse(tmp_path / "report.xml").iter("testcase"))
    assert {case.attrib["classname"].rpartition(".")[2] for case in cases} == {
        "TestJsonFileSessions",
        "TestJsonFileEvents",
    }
    skipped = {case.attrib["name"] for case in cases if case.find("skipped") is not None}
    assert len(cases) > 100
    assert {name for name in skipped if "out_of_reach" not in name} == set()


def test_the_store_is_listed_with_its_distribution(listed):
    assert ("jsonfile", "jsonfile-store", "1.0", "yes") in listed


def test_the_list_in_the_readme_is_the_output_of_the_command(listed):
    shown = [tuple(line.split()) for line in block("SCHEME").splitlines()]
    assert shown == [row for row in listed if row[0] in ("SCHEME", "jsonfile", "memory")]


def test_the_extras_install_the_plugins_of_this_repository(listed):
    brought = {}
    for directory in (REPOSITORY, *SHIPPED):
        project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
        for scheme in project["entry-points"]["mcp_tornado.stores"]:
            brought[scheme] = (project["name"], project["version"], "yes")
    assert brought.keys() == {"memory", "mongodb", "mongodb+srv", "redis", "rediss", "sqlite"}
    assert {scheme: tuple(rest) for scheme, *rest in listed[1:] if scheme != "jsonfile"} == brought


def test_a_session_outlives_a_process_that_is_killed(environment, tmp_path):
    (serve,) = commands("mcp-tornado serve")
    command = serve.replace("/var/lib/mcp", f"{tmp_path}/sessions")
    assert command != serve
    with environment.serving(command, tmp_path, signal.SIGKILL) as url:
        made = httpx.post(f"{url}/session", json={"clientInfo": {"name": "me", "version": "1"}})
        headers = {"Mcp-Session-Id": made.headers["Mcp-Session-Id"]}
        shown = httpx.get(f"{url}/session", headers=headers)
        assert shown.status_code == 200
    with environment.serving(command, tmp_path, signal.SIGTERM) as url:
        again = httpx.get(f"{url}/session", headers=headers)
        assert (again.status_code, again.json()["key"]) == (200, shown.json()["key"])
        assert httpx.delete(f"{url}/session", headers=headers).is_success
        assert httpx.get(f"{url}/session", headers=headers).status_code == 404


def test_the_two_files_of_the_chapter_start_are_a_store_that_is_listed(environment, tmp_path):
    (tmp_path / "pyproject.toml").write_text(block("[build-system]"))
    (tmp_path / "my_store.py").write_text(block("# my_store.py"))
    (tmp_path / "tests").mkdir()
    install, _ = commands("pip install pytest")
    environment.run(f"{install} --quiet", tmp_path)
    try:
        rows = [tuple(line.split()) for line in environment.run("mcp-tornado stores", tmp_path).splitlines()]
        assert ("mine", "my-store", "1.0", "no") in rows
    finally:
        environment.run("pip uninstall --quiet --yes my-store", tmp_path)
