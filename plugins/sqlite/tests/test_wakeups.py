"""Waiting tasks are woken by appends of this process and of others, after failures, and when the store is closed."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from mcp_tornado_sqlite import wakeups

pytestmark = pytest.mark.anyio


async def test_an_append_wakes_a_waiter_of_its_process_before_the_thread_checks(make_store, start_waiting, monkeypatch):
    monkeypatch.setattr(wakeups, "_CHECK_INTERVAL_SECONDS", 1000)
    async with make_store() as store:
        waiting = await start_waiting(store, "@p")
        await store.append("@p", "s", {})
        assert await waiting is True, "woken, not timed out"


async def test_an_append_whose_caller_is_cancelled_after_the_commit_wakes(make_store, start_waiting, monkeypatch):
    monkeypatch.setattr(wakeups, "_CHECK_INTERVAL_SECONDS", 1000)
    async with make_store() as store:
        waiting = await start_waiting(store, "@p")
        loop, writer = asyncio.get_running_loop(), store._require_open().writer

        def cancel_caller_first(connection, check_changes=writer._on_commit):
            loop.call_soon_threadsafe(appending.cancel)
            check_changes(connection)

        monkeypatch.setattr(writer, "_on_commit", cancel_caller_first)
        appending = asyncio.create_task(store.append("@p", "s", {}))
        assert await waiting is True, "woken, not timed out"
        await asyncio.wait([appending])
        assert appending.cancelled()
        assert len(await store.read("@p", None)) == 1


async def test_a_change_while_a_task_begins_to_wait_wakes_it(make_store):
    async with make_store() as store, make_store() as another:
        loop = asyncio.get_running_loop()

        def append_meanwhile(connection):
            asyncio.run_coroutine_threadsafe(another.append("@p", "s", {}), loop).result(30)
            return False

        woken = await store._require_open().wakeups.wait("@p", 30, append_meanwhile)
        assert woken is True, "woken, not timed out"


async def test_an_interruption_is_logged_once_and_misses_nothing(
    make_store, start_waiting, path, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(wakeups, "_RETRY_SECONDS", 0.001)
    async with make_store() as store, make_store() as another:
        database = store._require_open().wakeups._database
        failures, has_failed_often = 0, threading.Event()

        def connect_and_count_failures(connect=database.connect):
            nonlocal failures
            try:
                return connect()
            except Exception:
                failures += 1
                if failures > 3:
                    has_failed_often.set()
                raise

        monkeypatch.setattr(database, "connect", connect_and_count_failures)
        waiting = await start_waiting(store, "@p")
        elsewhere = tmp_path / "elsewhere"
        with caplog.at_level(logging.WARNING, "mcp_tornado_sqlite"):
            path.rename(elsewhere)
            assert await asyncio.to_thread(has_failed_often.wait, 30), f"the thread failed only {failures} times"
        elsewhere.rename(path)
        await another.append("@p", "s", {})
        assert await waiting is True, "woken, not timed out"
        assert len(caplog.records) == 1


async def test_closing_the_store_ends_all_waiting_tasks(make_store, start_waiting):
    store = make_store()
    async with store:
        waiting = await start_waiting(store, *(f"@{number}" for number in range(1000)), timeout=1000)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result).__name__ for result in results} == {"StoreUnavailable"}
