"""Processes on one store share the keys of `requestState` and the subscriptions of the stateless era."""

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
from tests.integration.server_process import EVERYTHING, Server, app_name, command, environment
from tests.integration.stateless_era import (
    ELICITATION_CAPABILITY,
    envelope,
    post_tool_call,
    read_acknowledgement,
    stateless_headers,
)
from tests.integration.stores import sqlite_url
from tests.integration.wire import EventStream, Wire, open_wire

pytestmark = pytest.mark.anyio

KEYS: Final = ["the first of the keys, 32 and more", "the second of them, as long as that"]
APPS: Final = {"MCPServer": EVERYTHING, "FastMCP": app_name("fastmcp_rounds")}


@contextmanager
def run_processes(directory: Path, *settings: dict[str, object], app: str = EVERYTHING) -> Generator[list[Server]]:
    """Run a process for each of the settings, all on one SQLite file."""
    store = ["--store", sqlite_url(directory)]
    servers = [Server(app, directory, {"LOG__LEVEL": "DEBUG", **more}, store) for more in settings]
    try:
        assert all(server.url for server in servers)
        yield servers
        for server in servers:
            server.stop()
    finally:
        for server in servers:
            server.close()


def key_settings(*keys: str) -> dict[str, object]:
    return {"SESSIONS__REQUEST_STATE_KEYS": json.dumps(keys)}


# ---------------------------------------------------------------- several rounds of a call


async def send_first_round(wire: Wire) -> dict[str, Any]:
    """Send the first round of a call, and return the request of the second."""
    message = wire.tool_request("greet", meta=envelope(**ELICITATION_CAPABILITY))
    first = (await wire.post(message, **stateless_headers("tools/call", "greet"))).json()["result"]
    assert first["resultType"] == "input_required"
    (key,) = first["inputRequests"]
    answers = {key: {"action": "accept", "content": {"name": "Ada"}}}
    params = {**message["params"], "inputResponses": answers, "requestState": first["requestState"]}
    return {**message, "params": params}


async def send_second_round(wire: Wire, second: dict[str, Any]) -> str:
    """Send the second round, and return the text of its result or the message of its error."""
    body = (await wire.post(second, **stateless_headers("tools/call", "greet"))).json()
    return body["error"]["message"] if "error" in body else body["result"]["content"][0]["text"]


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("settings", [{}, key_settings(*KEYS)], ids=["a key from the store", "keys from the settings"])
async def test_the_second_round_may_go_to_the_other_process(
    tmp_path: Path, app: str, settings: dict[str, object]
) -> None:
    with run_processes(tmp_path, settings, settings, app=APPS[app]) as (first, second):
        async with open_wire(first) as here, open_wire(second) as there:
            assert await send_second_round(there, await send_first_round(here)) == "Hello Ada"
            assert await send_second_round(here, await send_first_round(there)) == "Hello Ada"
            broken = await send_first_round(here)
            broken["params"]["requestState"] += "A"
            assert await send_second_round(there, broken) == "Invalid or expired requestState"


async def test_keys_can_be_rotated_one_process_after_the_other(tmp_path: Path) -> None:
    old, new = KEYS
    with run_processes(tmp_path, key_settings(old), key_settings(new, old), key_settings(new)) as servers:
        async with open_wire(servers[0]) as before, open_wire(servers[1]) as during, open_wire(servers[2]) as after:
            assert await send_second_round(during, await send_first_round(before)) == "Hello Ada"
            assert await send_second_round(after, await send_first_round(during)) == "Hello Ada"
            assert await send_second_round(after, await send_first_round(before)) == "Invalid or expired requestState"


async def test_a_key_in_the_store_outlives_the_process(tmp_path: Path) -> None:
    killed = Server(EVERYTHING, tmp_path, {}, ["--store", sqlite_url(tmp_path)])
    try:
        async with open_wire(killed) as wire:
            second = await send_first_round(wire)
    finally:
        killed.kill()
    with run_processes(tmp_path, {}) as (again,):
        async with open_wire(again) as wire:
            assert await send_second_round(wire, second) == "Hello Ada"


async def test_keys_are_neither_logged_nor_listed(tmp_path: Path) -> None:
    with run_processes(tmp_path, {}, key_settings(*KEYS)) as servers:
        async with open_wire(servers[0]) as here, open_wire(servers[1]) as there:
            await send_second_round(there, await send_first_round(here))
        async with open_store(sqlite_url(tmp_path), {}, system_clock) as store:
            assert isinstance(store, EventLog)
            (event,) = await store.read(KEPT_KEY, None)
    assert event.message is not None
    listed = subprocess.run(
        command("config"),
        cwd=tmp_path,
        env=environment(key_settings(*KEYS)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "sessions.request_state_keys" in listed.stdout
    output = "".join([*servers[0].raw_log_lines, *servers[1].raw_log_lines, listed.stdout, listed.stderr])
    assert not any(key in output for key in (*KEYS, event.message["key"]))


# ---------------------------------------------------------------- subscriptions


@asynccontextmanager
async def subscribe(wire: Wire) -> AsyncGenerator[EventStream]:
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["memo://a", "memo://b"]}
    request = wire.request("subscriptions/listen", {"notifications": wanted, "_meta": envelope()}, id="L")
    async with wire.post_stream(request, **stateless_headers("subscriptions/listen")) as events:
        assert await read_acknowledgement(events) == wanted
        yield events


async def next_notification(events: EventStream) -> str:
    """Return the resource that the next notification names, else its method without `notifications/`."""
    message = await events.next_message()
    assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "L"
    return message["params"].get("uri") or message["method"].removeprefix("notifications/")


async def test_a_subscription_gets_changes_that_another_process_publishes(tmp_path: Path) -> None:
    lists = ["tools/list_changed", "prompts/list_changed"]
    with run_processes(tmp_path, {}, {}) as (first, second):
        async with (
            open_wire(first) as here,
            open_wire(second) as there,
            subscribe(here) as events_here,
            subscribe(there) as events_there,
        ):
            await post_tool_call(here, "publish", uri="memo://unwatched")
            await post_tool_call(here, "publish", uri="memo://a")
            expected = [*lists, *lists, "memo://a"]
            assert [await next_notification(events_there) for _ in expected] == expected
            # A process does not publish again what came from another: that would arrive before this.
            await post_tool_call(there, "publish", uri="memo://b")
            expected = [*lists, "memo://b"]
            assert [await next_notification(events_there) for _ in expected] == expected
            expected = [*lists, *lists, "memo://a", *expected]
            assert [await next_notification(events_here) for _ in expected] == expected
