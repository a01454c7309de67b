"""Who waits is woken, and by whom."""

from __future__ import annotations

import asyncio
import logging

import pytest
from mcp_tornado_sqlite import wakeups

pytestmark = pytest.mark.anyio


@pytest.fixture
def settle():
    """Let every task come to where it waits."""

    async def run(store):
        for _ in range(20):
            await store.ping()

    return run


async def test_what_this_process_appends_wakes_without_the_thread_that_looks(make_store, settle, monkeypatch):
    monkeypatch.setattr(wakeups, "_INTERVAL", 1000)
    async with make_store() as store:
        waiting = asyncio.create_task(store.wait("@p", None, 30))
        await settle(store)
        await store.append("@p", "s", {})
        assert await waiting is True, "woken, not out of time"


async def test_an_append_whose_caller_is_gone_wakes_all_the_same(make_store, settle, monkeypatch):
    monkeypatch.setattr(wakeups, "_INTERVAL", 1000)
    async with make_store() as store:
        waiting = asyncio.create_task(store.wait("@p", None, 30))
        await settle(store)
        appending = asyncio.create_task(store.append("@p", "s", {}))
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while not await store.read("@p", None):
                pass
        appending.cancel()
        assert await waiting is True, "woken, not out of time"


async def test_what_changes_while_somebody_begins_to_wait_wakes(make_store):
    async with make_store() as store, make_store() as another:
        loop = asyncio.get_running_loop()

        def look(connection):
            asyncio.run_coroutine_threadsafe(another.append("@p", "s", {}), loop).result(30)
            return False

        assert await store._entered().wakeups.wait("@p", 30, look) is True, "woken, not out of time"


async def test_an_interruption_is_logged_once_and_misses_nothing(
    make_store, settle, path, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(wakeups, "_RETRY", 0.001)
    async with make_store() as store, make_store() as another:
        link = store._entered().wakeups._link
        tries = 0

        def connection(connect=link.connection):
            nonlocal tries
            tries += 1
            return connect()

        monkeypatch.setattr(link, "connection", connection)
        waiting = asyncio.create_task(store.wait("@p", None, 30))
        await settle(store)
        elsewhere = tmp_path / "elsewhere"
        with caplog.at_level(logging.WARNING, "mcp_tornado_sqlite"):
            path.rename(elsewhere)
            async with asyncio.timeout(30):
                while not caplog.records:
                    await asyncio.sleep(0)
                failed = tries
                while tries < failed + 3:
                    await asyncio.sleep(0)
        elsewhere.rename(path)
        await another.append("@p", "s", {})
        assert await waiting is True, "woken, not out of time"
        assert len(caplog.records) == 1


async def test_closing_while_many_wait_ends_all(make_store, settle):
    store = make_store()
    async with store:
        waiting = [asyncio.create_task(store.wait(f"@{number}", None, 1000)) for number in range(1000)]
        await settle(store)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result).__name__ for result in results} == {"StoreUnavailable"}
