"""What processes on one store share in the stateless era: the keys of `requestState`, and subscriptions."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from mcp_tornado.hosting.request_state import KEPT_KEY
from mcp_tornado.sessions import EventLog, system_clock
from mcp_tornado.stores.plugins import open_store
from tests.integration.conftest import EVERYTHING, Events, Server, Wire, command, environment, wire_to
from tests.integration.test_stateless import acknowledged, call, envelope, headers

pytestmark = pytest.mark.anyio

KEYS: Final = ["the first of the keys, 32 and more", "the second of them, as long as that"]
APPS: Final = {"MCPServer": f"{EVERYTHING}:server", "FastMCP": f"{Path(__file__).with_name('asking.py')}:fast"}


@contextmanager
def processes(directory: Path, *settings: dict[str, object], app: str = APPS["MCPServer"]) -> Generator[list[Server]]:
    """Start processes on one SQLite file, all at once."""
    store = ["--store", url_in(directory)]
    servers = [Server(app, directory, {"LOG__LEVEL": "DEBUG", **more}, store) for more in settings]
    try:
        assert all(server.url for server in servers)
        yield servers
        for server in servers:
            server.stop()
    finally:
        for server in servers:
            server.close()


def url_in(directory: Path) -> str:
    return f"sqlite:///{directory / 'sessions.db'}"


def given(*keys: str) -> dict[str, object]:
    return {"SESSIONS__REQUEST_STATE_KEYS": json.dumps(keys)}


# ---------------------------------------------------------------- rounds


async def ask(wire: Wire) -> dict[str, Any]:
    """Make the first round of a call, and return the request of the second."""
    meta = envelope(**{"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}})
    message = wire.call("greet", meta=meta)
    first = (await wire.post(message, **headers("tools/call", "greet"))).json()["result"]
    assert first["resultType"] == "input_required"
    (key,) = first["inputRequests"]
    answers = {key: {"action": "accept", "content": {"name": "Ada"}}}
    params = {**message["params"], "inputResponses": answers, "requestState": first["requestState"]}
    return {**message, "params": params}


async def answered(wire: Wire, second: dict[str, Any]) -> str:
    """Make the second round, and return the text of the result, or the message of the error."""
    body = (await wire.post(second, **headers("tools/call", "greet"))).json()
    return body["error"]["message"] if "error" in body else body["result"]["content"][0]["text"]


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("settings", [{}, given(*KEYS)], ids=["a key from the store", "keys from the settings"])
async def test_the_second_round_may_go_to_the_other_process(
    tmp_path: Path, app: str, settings: dict[str, object]
) -> None:
    with processes(tmp_path, settings, settings, app=APPS[app]) as (first, second):
        async with wire_to(first) as here, wire_to(second) as there:
            assert await answered(there, await ask(here)) == "Hello Ada"
            assert await answered(here, await ask(there)) == "Hello Ada"
            broken = await ask(here)
            broken["params"]["requestState"] += "A"
            assert await answered(there, broken) == "Invalid or expired requestState"


async def test_keys_can_be_exchanged_one_process_after_the_other(tmp_path: Path) -> None:
    old, new = KEYS
    with processes(tmp_path, given(old), given(new, old), given(new)) as servers:
        async with wire_to(servers[0]) as before, wire_to(servers[1]) as during, wire_to(servers[2]) as after:
            assert await answered(during, await ask(before)) == "Hello Ada"
            assert await answered(after, await ask(during)) == "Hello Ada"
            assert await answered(after, await ask(before)) == "Invalid or expired requestState"


async def test_a_key_of_the_store_outlives_the_process(tmp_path: Path) -> None:
    killed = Server(APPS["MCPServer"], tmp_path, {}, ["--store", url_in(tmp_path)])
    try:
        async with wire_to(killed) as wire:
            second = await ask(wire)
    finally:
        killed.kill()
    with processes(tmp_path, {}) as (again,):
        async with wire_to(again) as wire:
            assert await answered(wire, second) == "Hello Ada"


async def test_keys_are_neither_logged_nor_listed(tmp_path: Path) -> None:
    with processes(tmp_path, {}, given(*KEYS)) as servers:
        async with wire_to(servers[0]) as here, wire_to(servers[1]) as there:
            await answered(there, await ask(here))
        async with open_store(url_in(tmp_path), {}, system_clock) as store:
            assert isinstance(store, EventLog)
            (event,) = await store.read(KEPT_KEY, None)
    assert event.message is not None
    listed = subprocess.run(
        command("config"), cwd=tmp_path, env=environment(given(*KEYS)), capture_output=True, text=True, check=True
    )
    assert "sessions.request_state_keys" in listed.stdout
    told = "".join([*servers[0].texts, *servers[1].texts, listed.stdout, listed.stderr])
    assert not any(key in told for key in (*KEYS, event.message["key"]))


# ---------------------------------------------------------------- subscriptions


@asynccontextmanager
async def listening(wire: Wire) -> AsyncGenerator[Events]:
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["memo://a", "memo://b"]}
    request = wire.request("subscriptions/listen", {"notifications": wanted, "_meta": envelope()}, id="L")
    async with wire.stream(request, **headers("subscriptions/listen")) as events:
        assert await acknowledged(events) == wanted
        yield events


async def next_of(events: Events) -> str:
    message = await events.message()
    assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "L"
    return message["params"].get("uri") or message["method"].removeprefix("notifications/")


async def test_who_listens_at_one_process_hears_what_another_publishes(tmp_path: Path) -> None:
    lists = ["tools/list_changed", "prompts/list_changed"]
    with processes(tmp_path, {}, {}) as (first, second):
        async with (
            wire_to(first) as here,
            wire_to(second) as there,
            listening(here) as heard_here,
            listening(there) as heard_there,
        ):
            await call(here, "publish", uri="memo://nobody's")
            await call(here, "publish", uri="memo://a")
            expected = [*lists, *lists, "memo://a"]
            assert [await next_of(heard_there) for _ in expected] == expected
            # What came from elsewhere is told nobody again: it would be heard before this.
            await call(there, "publish", uri="memo://b")
            expected = [*lists, "memo://b"]
            assert [await next_of(heard_there) for _ in expected] == expected
            expected = [*lists, *lists, "memo://a", *expected]
            assert [await next_of(heard_here) for _ in expected] == expected
