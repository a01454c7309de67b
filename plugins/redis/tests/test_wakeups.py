"""Who waits is woken: from other processes, after interruptions, and without asking again and again."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest
from mcp_tornado_redis import redis_store, wakeups

pytestmark = pytest.mark.anyio

KEY, OTHER = "key-0001", "key-0002"
LONG = 1_000_000.0

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
    """Start another process; what is written to its input are actions and keys, one a line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ANOTHER_PROCESS, server.url, stdin=asyncio.subprocess.PIPE
    )
    yield process.stdin
    process.stdin.close()
    await process.stdin.wait_closed()
    assert await process.wait() == 0


def waiting_for(store, key, after):
    return asyncio.ensure_future(store.wait(key, after, LONG))


async def asked(client, count, eventually):
    """Wait until the server was asked so often by scripts."""
    await eventually(lambda: scripts_run(client) >= count)


def scripts_run(client):
    return sum(
        client.info("commandstats").get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")
    )


def subscribers(client):
    return client.execute_command("CLIENT", "LIST", "TYPE", "pubsub").splitlines()


async def test_another_process_wakes(store, make_session, another_process):
    await store.create(make_session())
    async with asyncio.timeout(60):
        waiting = [waiting_for(store, KEY, None), waiting_for(store, "@p", None)]
        another_process.write(f"append {KEY}\nappend @p\n".encode())
        assert await asyncio.gather(*waiting) == [True, True]
        (event,) = await store.read(KEY, None)
        waiting = waiting_for(store, KEY, event.id)
        another_process.write(f"delete {KEY}\n".encode())
        assert await waiting is True
        assert await store.read(KEY, None) == []


async def test_who_waits_does_not_ask_again_and_again(client, server, clock, other_store, make_session, eventually):
    patient = f"{server.url}?socket_timeout=60"  # a thousand who begin at once may take their time
    async with redis_store(patient, {}, clock) as store:
        before = scripts_run(client)
        await store.create(make_session())
        first = await store.append(KEY, "get", {})
        waiting = [waiting_for(store, f"@{number}", None) for number in range(999)] + [waiting_for(store, KEY, first)]
        await asked(client, before + 1002, eventually)
        for _ in range(200):
            await store.ping()
        assert len(client.client_list()) <= 1 + 2 * (1 + 16)
        second = await other_store.append(KEY, "get", {})
        assert await waiting.pop() is True
        assert [event.id for event in await store.read(KEY, first)] == [second]
        assert scripts_run(client) == before + 1004, "one each to begin with, and what this test did"
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_is_known_already_wakes_nobody(store, other_store, make_session):
    """What was heard late is not taken for new."""
    await store.create(make_session())
    for _ in range(50):
        last = await other_store.append(KEY, "get", {})
        assert await store.wait(KEY, last, 0) is False


async def test_when_listening_was_interrupted_everybody_is_woken(
    client, store, other_store, make_session, eventually, caplog
):
    caplog.set_level(logging.INFO)
    await store.create(make_session())
    first = await store.append(KEY, "get", {})
    before = scripts_run(client)
    waiting = [waiting_for(store, KEY, first), waiting_for(store, "@p", None)]
    await asked(client, before + 2, eventually)
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    async with asyncio.timeout(60):
        assert await asyncio.gather(*waiting) == [True, True]
    await eventually(lambda: len(subscribers(client)) == 2)
    waiting = waiting_for(store, KEY, first)
    await other_store.append(KEY, "get", {})
    async with asyncio.timeout(60):
        assert await waiting is True
    told = [record.levelname for record in caplog.records if record.name.startswith("mcp_tornado_redis")]
    assert sorted(told) == ["INFO", "INFO", "WARNING", "WARNING"], "that it was interrupted, and that it is over"


async def test_what_is_appended_while_nobody_listens_wakes_in_this_process_all_the_same(
    client, store, make_session, eventually
):
    await store.create(make_session())
    client.execute_command("ACL", "SETUSER", "default", "resetchannels", "&mcp-tornado:*")
    try:
        client.execute_command("ACL", "SETUSER", "default", "-subscribe")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        before = scripts_run(client)
        waiting = waiting_for(store, KEY, None)
        await asked(client, before + 1, eventually)
        await store.append(KEY, "get", {})
        async with asyncio.timeout(60):
            assert await waiting is True
        assert subscribers(client) == []
    finally:
        client.execute_command("ACL", "SETUSER", "default", "allchannels", "+subscribe")


async def test_a_server_that_falls_silent_is_noticed(server, make_store, make_session, monkeypatch, eventually, caplog):
    monkeypatch.setattr(wakeups, "_SILENCE", 0.01)
    async with make_store() as store:
        await store.create(make_session())
        async with server.frozen():
            await eventually(lambda: "nobody is woken" in caplog.text)
        waiting = waiting_for(store, KEY, None)
        async with asyncio.timeout(60):
            assert await waiting is True, "woken when it is back"


@pytest.mark.parametrize(("silence", "parameters", "asked"), [(0.01, "", 20), (1.1, "?health_check_interval=1", 2)])
async def test_a_server_that_has_nothing_to_say_is_not_taken_for_one_that_is_gone(
    server, client, clock, monkeypatch, eventually, silence, parameters, asked
):
    monkeypatch.setattr(wakeups, "_SILENCE", silence)

    def pings():
        return client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]

    async with redis_store(f"{server.url}{parameters}", {}, clock) as store:
        (listening,) = subscribers(client)
        before = pings()
        await eventually(lambda: pings() >= before + asked)
        (still_listening,) = subscribers(client)
        assert listening.split()[0] == still_listening.split()[0], "the same connection"
        assert await store.wait("@p", None, 0) is False


async def test_listening_ends_whatever_it_is_about_when_the_store_is_left(make_store, anyio_backend, monkeypatch):
    monkeypatch.setattr(wakeups, "_SILENCE", 0.0001)
    async with asyncio.timeout(60):
        for number in range(300):
            async with make_store():
                for _ in range(number % 60):
                    await asyncio.sleep(0)
