"""Waiting tasks are woken by a change stream or, without change streams, by polling."""

from __future__ import annotations

import asyncio

import pytest
from mcp_tornado_mongodb.calls import Calls
from mcp_tornado_mongodb.wakeups import WakeUps
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import AutoReconnect, ExecutionTimeout, OperationFailure

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

KEY = "key-0001-and-so-on"
TIMEOUT_SECONDS = 30


@pytest.fixture
def no_change_streams(monkeypatch):
    """Refuse change streams as a standalone server does; give the list of the attempts."""
    attempts = []

    async def watch(self, *_, **__):
        attempts.append(self.name)
        raise OperationFailure("The $changeStream stage is only supported on replica sets", 40573)

    monkeypatch.setattr(AsyncCollection, "watch", watch)
    return attempts


async def test_a_waiter_is_woken_without_change_streams(nx_backend, make_session, no_change_streams, eventually):
    async with nx_backend.make_store() as one, nx_backend.make_store() as two:
        await one.create(make_session(KEY))
        after = None
        for number in range(5):
            waiting = asyncio.create_task(one.wait(KEY, after, TIMEOUT_SECONDS))
            await eventually(lambda: one._opened.wakeups._known_numbers, "the task waits")
            after = await two.append(KEY, "get", {"n": number})
            assert await waiting is True, "woken, not timed out"
        waiting = asyncio.create_task(one.wait(KEY, after, TIMEOUT_SECONDS))
        await eventually(lambda: one._opened.wakeups._known_numbers, "the task waits")
        await two.delete(KEY)
        assert await waiting is True
        assert no_change_streams == ["sessions"], "there was one attempt"


async def test_changes_of_a_process_wake_its_waiters_without_the_server(
    nx_backend, make_session, clock, monkeypatch, eventually
):
    is_over = asyncio.Event()

    async def watch(*_, **__):
        await is_over.wait()
        raise AutoReconnect("a server that reports no changes")

    monkeypatch.setattr(AsyncCollection, "watch", watch)
    async with nx_backend.make_store() as store:
        for key in ("deleted", "swept"):
            await store.create(make_session(key))
        waiting = [asyncio.create_task(store.wait(key, None, TIMEOUT_SECONDS)) for key in ("@p", "deleted", "swept")]
        await eventually(lambda: len(store._opened.wakeups._known_numbers) == 3, "all tasks wait")
        await store.append("@p", "get", {})
        await store.delete("deleted")
        clock.advance(1000)
        await store.sweep(clock(), 10)
        assert await asyncio.gather(*waiting) == [True] * 3, "woken, not timed out"
        is_over.set()


async def test_change_streams_are_tried_again_after_an_interruption(
    nx_backend, nx_outage, no_change_streams, caplog, eventually, retry_until_available
):
    async with nx_backend.make_store() as one, nx_backend.make_store() as two:
        waiting = asyncio.create_task(one.wait("@p", None, 10 * TIMEOUT_SECONDS))
        await eventually(lambda: no_change_streams, "the store has tried to open a change stream")
        async with nx_outage:
            await eventually(lambda: "changes in MongoDB cannot be followed" in caplog.text, "the failure is logged")
        await eventually(lambda: len(no_change_streams) > 1, "the store has tried again to open a change stream")
        await retry_until_available(lambda: two.append("@p", "get", {}))
        assert await waiting is True


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_tasks_that_wait_during_an_outage_are_woken_after_it(
    nx_backend, nx_outage, driver, eventually, retry_until_available
):
    async with nx_backend.make_store(driver=driver) as one, nx_backend.make_store(driver=driver) as two:
        waiting = [asyncio.create_task(one.wait(f"@p{number}", None, 10 * TIMEOUT_SECONDS)) for number in range(20)]
        wakeups = one._opened.wakeups
        await eventually(lambda: wakeups._stream is not None and len(wakeups._known_numbers) == 20, "all tasks wait")
        async with nx_outage:
            with pytest.raises(StoreUnavailable):
                await one.ping()
            assert not any(task.done() for task in waiting)
        for number in range(20):
            await retry_until_available(lambda number=number: two.append(f"@p{number}", "get", {}))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert await asyncio.gather(*waiting) == [True] * 20


async def test_one_query_asks_for_all_keys_that_tasks_wait_for(nx_backend, no_change_streams, monkeypatch, eventually):
    key_counts = []
    find = AsyncCollection.find

    def count_and_find(self, query, *rest):
        key_counts.append(len(query["_id"]["$in"]))
        return find(self, query, *rest)

    async with nx_backend.make_store() as store:
        waiting = [asyncio.create_task(store.wait(f"@p{number}", None, 10 * TIMEOUT_SECONDS)) for number in range(300)]
        wakeups = store._opened.wakeups
        await eventually(lambda: len(wakeups._known_numbers) == 300, "all tasks wait")
        monkeypatch.setattr(AsyncCollection, "find", count_and_find)
        await eventually(lambda: len(key_counts) >= 3, "the store has polled three times")
        assert set(key_counts) == {300}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert wakeups._known_numbers == {}
        key_counts.clear()
        await store.wait("@q", None, 0)
        assert max(key_counts) == 1


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_closing_leaves_no_task_behind(nx_backend, driver, eventually):
    others = asyncio.all_tasks()
    async with nx_backend.make_store(driver=driver) as store:
        waiting = [asyncio.create_task(store.wait(f"@p{number}", None, TIMEOUT_SECONDS)) for number in range(3)]
        pinging = [asyncio.create_task(store.ping()) for _ in range(10)]
        await eventually(lambda: store._opened.wakeups._stream is not None, "the change stream is open")
        for task in [waiting[0], *pinging]:
            task.cancel()
    assert [type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)] == [
        asyncio.CancelledError,
        StoreUnavailable,
        StoreUnavailable,
    ]
    await asyncio.gather(*pinging, return_exceptions=True)
    await eventually(lambda: asyncio.all_tasks() == others, "all tasks of the store have ended")


class FakeServer:
    """A server with numbers of events and change streams, which the test controls.

    While `may_answer` is clear, queries wait after they have been evaluated; while `may_open` is clear, the opening of
    a change stream waits.
    """

    def __init__(self):
        self.numbers = {}
        self.streams = []
        self.failures = []
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.may_open = asyncio.Event()
        self.may_open.set()

    async def newest_numbers(self, keys):
        numbers = {key: self.numbers.get(key, 0) for key in keys}
        self.was_asked.set()
        await self.may_answer.wait()
        return numbers

    async def watch(self, _, max_await_time_ms):
        await self.may_open.wait()
        if self.failures:
            raise self.failures.pop()
        self.streams.append(FakeStream())
        return self.streams[-1]


class FakeStream:
    def __init__(self):
        self.alive = True
        self.changes = asyncio.Queue()

    async def __aenter__(self):
        return self

    async def try_next(self):
        try:
            async with asyncio.timeout(0.05):
                change = await self.changes.get()
        except TimeoutError:
            return None
        if isinstance(change, Exception):
            raise change
        if change["operationType"] == "invalidate":
            self.alive = False
        return change

    async def close(self):
        self.alive = False


@pytest.fixture
async def fake(anyio_backend):
    """Give a fake server, and the wake-ups on it."""
    server = FakeServer()
    wakeups = WakeUps(server, server.newest_numbers, Calls("a fake server", 3))
    yield server, wakeups
    await wakeups.close()


def make_change(key):
    return {"operationType": "update", "documentKey": {"_id": key}}


@pytest.mark.parametrize("end", [{"operationType": "invalidate"}, AutoReconnect("gone"), OperationFailure("lost", 286)])
async def test_a_stream_that_ends_is_opened_again_and_no_change_is_missed(fake, end, eventually):
    server, wakeups = fake
    missed = asyncio.create_task(wakeups.wait("missed", 0, TIMEOUT_SECONDS))
    later = asyncio.create_task(wakeups.wait("later", 0, TIMEOUT_SECONDS))
    await eventually(lambda: server.streams and len(wakeups._known_numbers) == 2, "both tasks wait")
    server.may_open.clear()
    server.streams[0].changes.put_nowait(end)
    await eventually(lambda: not server.streams[0].alive, "the stream has ended")
    server.numbers["missed"] = 1
    server.may_open.set()
    assert await missed is True
    server.numbers["later"] = 1
    server.streams[1].changes.put_nowait(make_change("later"))
    assert await later is True


@pytest.mark.parametrize("failure", [AutoReconnect("gone"), ExecutionTimeout("too late")])
async def test_a_stream_that_cannot_be_opened_in_time_is_tried_again_without_polling(fake, failure, eventually):
    server, wakeups = fake
    server.failures.append(failure)
    waiting = asyncio.create_task(wakeups.wait("mine", 0, TIMEOUT_SECONDS))
    await eventually(lambda: server.streams, "a change stream is open")
    server.streams[0].changes.put_nowait(make_change("mine"))
    assert await waiting is True


async def test_a_change_while_the_first_stream_is_opened_wakes_the_waiters(fake, eventually):
    """A task may have asked for the newest event before the stream was open; the stream reports later changes only."""
    server, wakeups = fake
    server.may_answer.clear()
    server.may_open.clear()
    first = asyncio.create_task(wakeups.wait("first", 0, TIMEOUT_SECONDS))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await server.was_asked.wait()
    server.was_asked.clear()
    server.may_answer.set()
    await eventually(lambda: "first" in wakeups._known_numbers, "the first task waits")
    server.may_answer.clear()
    second = asyncio.create_task(wakeups.wait("second", 0, TIMEOUT_SECONDS))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await server.was_asked.wait()
    server.numbers = {"first": 1, "second": 1}
    server.may_open.set()
    await eventually(lambda: server.streams, "a change stream is open")
    server.may_answer.set()
    assert await asyncio.gather(first, second) == [True, True]


async def test_a_change_of_another_key_wakes_no_task(fake, eventually):
    server, wakeups = fake
    waiting = asyncio.create_task(wakeups.wait("mine", 0, TIMEOUT_SECONDS))
    other = asyncio.create_task(wakeups.wait("other", 0, TIMEOUT_SECONDS))
    await eventually(lambda: server.streams, "a change stream is open")
    server.streams[0].changes.put_nowait(make_change("unknown"))
    server.streams[0].changes.put_nowait(make_change("other"))
    assert await other is True
    assert not waiting.done()
    wakeups.wake("mine")
    assert await waiting is True
