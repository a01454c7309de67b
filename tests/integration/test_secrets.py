"""A password in a store's URL reaches no log, no error and no listing of the settings, whatever goes wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from mcp_tornado.sessions import system_clock
from mcp_tornado.settings import describe, load_settings
from mcp_tornado.stores.plugins import StorePluginError, open_store
from tests.conftest import DID_NOT_RUN
from tests.integration.conftest import DEADLINE, Server, command, environment, error_code, until, wire_to
from tests.integration.test_durable import free_port, running

PASSWORD = "hunter2"

OUT_OF_REACH = {
    "redis": "redis://user:hunter2@127.0.0.1:1/0",
    "redis, password alone": "redis://:hunter2@127.0.0.1:1/0",
    "redis, password as a parameter": "redis://127.0.0.1:1/0?password=hunter2",
    "rediss": "rediss://user:hunter2@127.0.0.1:1/0",
    "mongodb": "mongodb://user:hunter2@127.0.0.1:1/db?authSource=admin",
    "mongodb+srv": "mongodb+srv://user:hunter2@nowhere.invalid/db",
}

NO_GOOD = [
    "redis://user:hunter2@host:port/0",
    "redis://user:hunter2@host:99999/0",
    "redis://user:hunter2@host/database",
    "redis://user:hunter2@[::1/0",
    "redis://user:hunter2@host/0?socket_timeout=hunter2",
    "redis://user:hunter2@host/0?nonsense=hunter2",
    "mongodb://user:hunter2@host:port/db",
    "mongodb://user:hunter2@/db",
    "mongodb://user:hun/ter2:hunter2@host/db",
    "mongodb://user:hunter2:hunter2@host/db",
    "mongodb://user:%hunter2@host/db",
    "mongodb://user:hunter2@host/d b$?x=hunter2",
    "mongodb://user:hunter2@host/db?nonsense=hunter2",
    "mongodb://user:hunter2@host/db?serverSelectionTimeoutMS=hunter2",
    "mongodb://user:hunter2@host/db?readPreference=hunter2",
    "mongodb+srv://user:hunter2@a.example.com:27017/db",
    "mongodb+srv://user:hunter2@a,b/db",
    "sqlite://user:hunter2@host/file.db",
    "sqlite://hunter2",
    "sqlite:///file.db?password=hunter2",
]


@pytest.mark.parametrize("url", NO_GOOD)
@pytest.mark.anyio
async def test_a_url_that_is_no_good_is_refused_without_its_password(url: str, anyio_backend: str) -> None:
    with pytest.raises(StorePluginError) as caught:
        open_store(url, {}, system_clock)
    assert PASSWORD not in str(caught.value)
    scheme = url.partition(":")[0]
    assert f"{scheme}://" in str(caught.value)


@pytest.mark.parametrize("scheme", ["memory", "sqlite", "redis", "mongodb"])
def test_options_that_are_no_good_are_refused_by_name_and_not_by_value(scheme: str, tmp_path: Path) -> None:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/x.db"}.get(scheme, f"{scheme}://host")
    with pytest.raises(StorePluginError) as caught:
        open_store(url, {"passwrd": PASSWORD}, system_clock)
    assert PASSWORD not in str(caught.value)
    assert "passwrd" in str(caught.value)


def test_a_store_out_of_reach_stops_the_start_without_its_password(tmp_path: Path) -> None:
    """All at once: each takes the seconds that it waits for an answer."""
    starts = {
        name: subprocess.Popen(
            command("serve", "--port", "0"),
            cwd=tmp_path,
            env=environment({"SESSIONS__STORE": url, "LOG__LEVEL": "DEBUG"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, url in OUT_OF_REACH.items()
    }
    outputs = {name: start.communicate(timeout=2 * DEADLINE)[0] for name, start in starts.items()}
    for name, output in outputs.items():
        assert starts[name].returncode == 1, output
        assert PASSWORD not in output
        assert "Traceback" not in output
        last = output.splitlines()[-1]
        assert last.startswith("Error: "), output
        assert name.partition(",")[0].partition("+")[0].removesuffix("s") in last.lower()


@pytest.mark.parametrize("url", OUT_OF_REACH.values())
def test_the_settings_are_listed_without_the_password(url: str) -> None:
    assert PASSWORD not in str(describe(load_settings(overrides={"sessions.store": url})))


@pytest.fixture
def redis_port(tmp_path: Path) -> Generator[int]:
    if shutil.which("redis-server") is None:
        pytest.skip(f"{DID_NOT_RUN}redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    options = ("--requirepass", PASSWORD, "--save", "", "--appendonly", "no", "--dir", tmp_path)
    with running(port, "redis-server", "--port", str(port), *options):
        yield port


def test_a_wrong_password_stops_the_start_and_says_so(redis_port: int, tmp_path: Path) -> None:
    wrong = f"redis://:not-{PASSWORD}@127.0.0.1:{redis_port}/0"
    started = subprocess.run(
        command("serve", "--port", "0", "--store", wrong),
        cwd=tmp_path,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert started.returncode == 1
    assert "password" in started.stderr.lower()
    assert PASSWORD not in started.stdout + started.stderr


@pytest.mark.anyio
async def test_a_store_that_fails_while_serving_tells_no_password(redis_port: int, tmp_path: Path) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{redis_port}/0"
    server = Server("server", tmp_path, {"SESSIONS__STORE": url, "LOG__LEVEL": "DEBUG"})
    try:
        async with wire_to(server) as wire:
            await wire.open()
            subprocess.run(
                ["redis-cli", "-p", str(redis_port), "-a", PASSWORD, "shutdown", "nosave"],
                capture_output=True,
                check=True,
            )

            async def refused() -> bool:
                answer = await wire.post(wire.call("echo", text="x"))
                assert PASSWORD not in answer.text
                return answer.status_code == 503 and error_code(answer) == "STORE_UNAVAILABLE"

            await until(refused)
            ready = await wire.http.get(f"{server.origin}/readyz")
            assert ready.status_code == 503
            alive = await wire.http.get(f"{server.origin}/healthz")
            assert alive.status_code == 200
        await server.line("store.error")
        server.signal()
        assert await server.exit_code() == 0
        assert PASSWORD not in "".join(server.texts)
        assert "Traceback" not in "".join(server.texts)
    finally:
        server.close()
