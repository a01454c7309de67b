"""Waiting tasks are woken by other processes and after interruptions, without polling."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest
from mcp_tornado_redis import redis_store, wakeups

pytestmark = pytest.mark.anyio

KEY, OTHER = "key-0001", "key-0002"
NEVER_SECONDS = 1_000_000.0

ANOTHER_PROCESS = """
import asyncio, sys
from mcp_tornado.sessions.store import system_clock
from mcp_tornado_redis import redis_store

async def main():
    async with redis_store(sys.argv[1], {}, system_clock) as store:
        for key in sys.stdin:
            action, key = key.split()
            await (store.delete(key) if action == "delete" else store.append(key, "get", {"from": "another process"}))

asyncio.run(main())
"""


@pytest.fixture
async def another_process(server):
    """Start another process, and give its input; each line written to it is an action and a key."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ANOTHER_PROCESS, server.url, stdin=asyncio.subprocess.PIPE
    )
    yield process.stdin
    process.stdin.close()
    await process.stdin.wait_closed()
    assert await process.wait() == 0


def start_waiting(store, key, after):
    return asyncio.create_task(store.wait(key, after, NEVER_SECONDS))


async def wait_for_scripts(client, count, eventually):
    """Wait until the server has run this number of scripts."""
    await eventually(lambda: count_scripts(client) >= count, f"the server has run {count} scripts")


def count_scripts(client):
    return sum(
        client.info("commandstats").get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")
    )


def list_subscribers(client):
    return client.execute_command("CLIENT", "LIST", "TYPE", "pubsub").splitlines()


async def test_appends_and_deletions_of_another_process_wake_waiters(store, make_session, another_process):
    await store.create(make_session())
    async with asyncio.timeout(60):
        waiting = [start_waiting(store, KEY, None), start_waiting(store, "@p", None)]
        another_process.write(f"append {KEY}\nappend @p\n".encode())
        assert await asyncio.gather(*waiting) == [True, True]
        (event,) = await store.read(KEY, None)
        waiting = start_waiting(store, KEY, event.id)
        another_process.write(f"delete {KEY}\n".encode())
        assert await waiting is True
        assert await store.read(KEY, None) == []


async def test_a_waiting_task_asks_the_server_once(client, server, clock, other_store, make_session, eventually):
    url = f"{server.url}?socket_timeout=60"  # a thousand tasks that begin at the same time may take long
    async with redis_store(url, {}, clock) as store:
        before = count_scripts(client)
        await store.create(make_session())
        first = await store.append(KEY, "get", {})
        waiting = [start_waiting(store, f"@{number}", None) for number in range(999)] + [
            start_waiting(store, KEY, first)
        ]
        await wait_for_scripts(client, before + 1002, eventually)
        for _ in range(200):
            await store.ping()
        assert len(client.client_list()) <= 1 + 2 * (1 + 16)
        second = await other_store.append(KEY, "get", {})
        assert await waiting.pop() is True
        assert [event.id for event in await store.read(KEY, first)] == [second]
        assert count_scripts(client) == before + 1004, "one for each task, and those of this test"
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_event_that_was_read_before_its_message_arrives_wakes_no_task(store, other_store, make_session):
    await store.create(make_session())
    for _ in range(50):
        last = await other_store.append(KEY, "get", {})
        assert await store.wait(KEY, last, 0) is False


async def test_all_waiting_tasks_are_woken_after_an_interruption(
    client, store, other_store, make_session, eventually, caplog
):
    caplog.set_level(logging.INFO)
    await store.create(make_session())
    first = await store.append(KEY, "get", {})
    before = count_scripts(client)
    waiting = [start_waiting(store, KEY, first), start_waiting(store, "@p", None)]
    await wait_for_scripts(client, before + 2, eventually)
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    async with asyncio.timeout(60):
        assert await asyncio.gather(*waiting) == [True, True]
    await eventually(lambda: len(list_subscribers(client)) == 2, "both stores have subscribed again")
    waiting = start_waiting(store, KEY, first)
    await other_store.append(KEY, "get", {})
    async with asyncio.timeout(60):
        assert await waiting is True
    levels = [record.levelname for record in caplog.records if record.name.startswith("mcp_tornado_redis")]
    assert sorted(levels) == ["INFO", "INFO", "WARNING", "WARNING"], "the interruption and its end, for both stores"


async def test_an_append_wakes_a_waiter_of_its_process_while_there_is_no_subscription(
    client, store, make_session, eventually
):
    await store.create(make_session())
    client.execute_command("ACL", "SETUSER", "default", "resetchannels", "&mcp-tornado:*")
    try:
        client.execute_command("ACL", "SETUSER", "default", "-subscribe")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        before = count_scripts(client)
        waiting = start_waiting(store, KEY, None)
        await wait_for_scripts(client, before + 1, eventually)
        await store.append(KEY, "get", {})
        async with asyncio.timeout(60):
            assert await waiting is True
        assert list_subscribers(client) == []
    finally:
        client.execute_command("ACL", "SETUSER", "default", "allchannels", "+subscribe")


async def test_a_server_that_stops_answering_is_detected(
    server, make_store, make_session, monkeypatch, eventually, caplog
):
    monkeypatch.setattr(wakeups, "_PING_AFTER_SECONDS", 0.01)
    async with make_store() as store:
        await store.create(make_session())
        async with server.frozen():
            await eventually(lambda: "wake no task until" in caplog.text, "the interruption is logged")
        waiting = start_waiting(store, KEY, None)
        async with asyncio.timeout(60):
            assert await waiting is True, "woken when the server answers again"


@pytest.mark.parametrize(
    ("ping_after", "parameters", "expected_pings"), [(0.01, "", 20), (1.1, "?health_check_interval=1", 2)]
)
async def test_an_idle_server_that_answers_pings_keeps_its_subscription(
    server, client, clock, monkeypatch, eventually, ping_after, parameters, expected_pings
):
    monkeypatch.setattr(wakeups, "_PING_AFTER_SECONDS", ping_after)

    def count_pings():
        return client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]

    async with redis_store(f"{server.url}{parameters}", {}, clock) as store:
        (subscriber,) = list_subscribers(client)
        before = count_pings()
        await eventually(lambda: count_pings() >= before + expected_pings, f"{expected_pings} pings were sent")
        (same_subscriber,) = list_subscribers(client)
        assert subscriber.split()[0] == same_subscriber.split()[0], "the same connection"
        assert await store.wait("@p", None, 0) is False


async def test_the_subscription_can_be_closed_at_any_step(make_store, step_loop, anyio_backend, monkeypatch):
    monkeypatch.setattr(wakeups, "_PING_AFTER_SECONDS", 0.0001)
    async with asyncio.timeout(60):
        for number in range(300):
            async with make_store():
                await step_loop(number % 60)
