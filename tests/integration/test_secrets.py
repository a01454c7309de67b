"""The password in a store's URL appears in no log, no error and no listing of the settings."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from mcp_tornado.sessions import system_clock
from mcp_tornado.settings import describe, load_settings
from mcp_tornado.stores.plugins import StorePluginError, open_store
from tests.integration.server_process import EVERYTHING, Server, command, environment
from tests.integration.stores import run_redis
from tests.integration.waiting import DEADLINE_SECONDS, wait_until
from tests.integration.wire import error_code, open_wire

PASSWORD = "hunter2"

UNREACHABLE = {
    "redis": "redis://user:hunter2@127.0.0.1:1/0",
    "redis, password alone": "redis://:hunter2@127.0.0.1:1/0",
    "redis, password as a parameter": "redis://127.0.0.1:1/0?password=hunter2",
    "rediss": "rediss://user:hunter2@127.0.0.1:1/0",
    "mongodb": "mongodb://user:hunter2@127.0.0.1:1/db?authSource=admin",
    "mongodb+srv": "mongodb+srv://user:hunter2@nowhere.invalid/db",
}

INVALID = [
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


@pytest.mark.parametrize("url", INVALID)
@pytest.mark.anyio
async def test_the_refusal_of_an_invalid_url_does_not_show_its_password(url: str, anyio_backend: str) -> None:
    with pytest.raises(StorePluginError) as caught:
        open_store(url, {}, system_clock)
    assert PASSWORD not in str(caught.value)
    scheme = url.partition(":")[0]
    assert f"{scheme}://" in str(caught.value)


@pytest.mark.parametrize("scheme", ["memory", "sqlite", "redis", "mongodb"])
def test_the_refusal_of_an_unknown_option_shows_its_name_and_not_its_value(scheme: str, tmp_path: Path) -> None:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/x.db"}.get(scheme, f"{scheme}://host")
    with pytest.raises(StorePluginError) as caught:
        open_store(url, {"passwrd": PASSWORD}, system_clock)
    assert PASSWORD not in str(caught.value)
    assert "passwrd" in str(caught.value)


def test_the_start_fails_without_the_password_if_the_store_is_unreachable(tmp_path: Path) -> None:
    """All stores in parallel, because each takes the seconds of its timeout."""
    starts = {
        name: subprocess.Popen(
            command("serve", "--port", "0"),
            cwd=tmp_path,
            env=environment({"SESSIONS__STORE": url, "LOG__LEVEL": "DEBUG"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, url in UNREACHABLE.items()
    }
    try:
        outputs = {name: start.communicate(timeout=2 * DEADLINE_SECONDS)[0] for name, start in starts.items()}
    finally:
        for start in starts.values():
            start.kill()
    for name, output in outputs.items():
        assert starts[name].returncode == 1, output
        assert PASSWORD not in output
        assert "Traceback" not in output
        last = output.splitlines()[-1]
        assert last.startswith("Error: "), output
        assert name.partition(",")[0].partition("+")[0].removesuffix("s") in last.lower()


@pytest.mark.parametrize("url", UNREACHABLE.values())
def test_the_listing_of_the_settings_does_not_show_the_password(url: str) -> None:
    assert PASSWORD not in str(describe(load_settings(overrides={"sessions.store": url})))


@pytest.fixture
def redis_port(tmp_path: Path) -> Generator[int]:
    with run_redis(tmp_path, "--requirepass", PASSWORD, "--appendonly", "no") as server:
        yield server.port


def test_the_start_fails_with_a_message_if_the_password_is_wrong(redis_port: int, tmp_path: Path) -> None:
    wrong = f"redis://:not-{PASSWORD}@127.0.0.1:{redis_port}/0"
    started = subprocess.run(
        command("serve", "--port", "0", "--store", wrong),
        cwd=tmp_path,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert started.returncode == 1
    assert "password" in started.stderr.lower()
    assert PASSWORD not in started.stdout + started.stderr


@pytest.mark.anyio
async def test_a_store_that_fails_later_does_not_reveal_the_password(redis_port: int, tmp_path: Path) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{redis_port}/0"
    server = Server(EVERYTHING, tmp_path, {"SESSIONS__STORE": url, "LOG__LEVEL": "DEBUG"})
    try:
        async with open_wire(server) as wire:
            await wire.open_session()
            subprocess.run(
                ["redis-cli", "-p", str(redis_port), "-a", PASSWORD, "shutdown", "nosave"],
                capture_output=True,
                check=True,
            )

            async def is_refused() -> bool:
                answer = await wire.post(wire.tool_request("echo", text="x"))
                assert PASSWORD not in answer.text
                return answer.status_code == 503 and error_code(answer) == "STORE_UNAVAILABLE"

            await wait_until(is_refused, "a call is refused because of the store")
            ready = await wire.http.get(f"{server.origin}/readyz")
            assert ready.status_code == 503
            alive = await wire.http.get(f"{server.origin}/healthz")
            assert alive.status_code == 200
        await server.wait_until_logged("store.error")
        server.send_signal()
        assert await server.wait_for_exit() == 0
        assert PASSWORD not in "".join(server.raw_log_lines)
        assert "Traceback" not in "".join(server.raw_log_lines)
    finally:
        server.close()
