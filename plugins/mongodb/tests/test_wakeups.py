"""What wakes those who wait: a change stream where there is one, polling where there is none."""

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
PATIENCE = 30


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def no_change_streams(monkeypatch):
    """Refuse change streams as a standalone server does; return the list of the attempts."""
    attempts = []

    async def watch(self, *_, **__):
        attempts.append(self.name)
        raise OperationFailure("The $changeStream stage is only supported on replica sets", 40573)

    monkeypatch.setattr(AsyncCollection, "watch", watch)
    return attempts


async def test_without_change_streams_a_waiter_is_woken_all_the_same(nx, make_session, no_change_streams):
    async with nx.make_store() as one, nx.make_store() as two:
        await one.create(make_session(KEY))
        after = None
        for number in range(5):
            waiting = asyncio.create_task(one.wait(KEY, after, PATIENCE))
            await until(lambda: one._opened.wakeups._seen)
            after = await two.append(KEY, "get", {"n": number})
            assert await waiting is True, "woken, not out of time"
        waiting = asyncio.create_task(one.wait(KEY, after, PATIENCE))
        await until(lambda: one._opened.wakeups._seen)
        await two.delete(KEY)
        assert await waiting is True
        assert no_change_streams == ["sessions"], "tried once"


async def test_what_this_process_does_wakes_its_waiters_without_the_server(nx, make_session, clock, monkeypatch):
    over = asyncio.Event()

    async def watch(*_, **__):
        await over.wait()
        raise AutoReconnect("a server that tells of nothing")

    monkeypatch.setattr(AsyncCollection, "watch", watch)
    async with nx.make_store() as store:
        for key in ("deleted", "swept"):
            await store.create(make_session(key))
        waiting = [asyncio.create_task(store.wait(key, None, PATIENCE)) for key in ("@p", "deleted", "swept")]
        await until(lambda: len(store._opened.wakeups._seen) == 3)
        await store.append("@p", "get", {})
        await store.delete("deleted")
        clock.advance(1000)
        await store.sweep(clock(), 10)
        assert await asyncio.gather(*waiting) == [True] * 3, "woken, not out of time"
        over.set()


async def test_after_an_interruption_change_streams_are_tried_again(nx, nx_outage, no_change_streams, caplog):
    async with nx.make_store() as one, nx.make_store() as two:
        waiting = asyncio.create_task(one.wait("@p", None, 10 * PATIENCE))
        await until(lambda: no_change_streams)
        async with nx_outage:
            await until(lambda: "MongoDB tells of no changes" in caplog.text)
        await until(lambda: len(no_change_streams) > 1)
        await append(two, "@p")
        assert await waiting is True


async def append(store, key):
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await store.append(key, "get", {})
            except StoreUnavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_who_waits_while_the_server_is_away_is_woken_when_it_is_back(nx, nx_outage, driver):
    async with nx.make_store(driver=driver) as one, nx.make_store(driver=driver) as two:
        waiting = [asyncio.create_task(one.wait(f"@p{number}", None, 10 * PATIENCE)) for number in range(20)]
        await until(lambda: one._opened.wakeups._stream is not None and len(one._opened.wakeups._seen) == 20)
        async with nx_outage:
            with pytest.raises(StoreUnavailable):
                await one.ping()
            assert not any(task.done() for task in waiting)
        for number in range(20):
            await append(two, f"@p{number}")
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*waiting) == [True] * 20


async def test_many_who_wait_are_asked_for_in_one_query(nx, no_change_streams, monkeypatch):
    asked = []
    find = AsyncCollection.find

    def finding(self, wanted, *rest):
        asked.append(len(wanted["_id"]["$in"]))
        return find(self, wanted, *rest)

    async with nx.make_store() as store:
        waiting = [asyncio.create_task(store.wait(f"@p{number}", None, 10 * PATIENCE)) for number in range(300)]
        await until(lambda: len(store._opened.wakeups._seen) == 300)
        monkeypatch.setattr(AsyncCollection, "find", finding)
        await until(lambda: len(asked) >= 3)
        assert set(asked) == {300}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert store._opened.wakeups._seen == {}
        asked.clear()
        await store.wait("@q", None, 0)
        assert max(asked) == 1


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_closing_leaves_no_task_behind(nx, driver):
    others = asyncio.all_tasks()
    async with nx.make_store(driver=driver) as store:
        waiting = [asyncio.create_task(store.wait(f"@p{number}", None, PATIENCE)) for number in range(3)]
        given_up = [asyncio.create_task(store.ping()) for _ in range(10)]
        await until(lambda: store._opened.wakeups._stream is not None)
        for task in [waiting[0], *given_up]:
            task.cancel()
    assert [type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)] == [
        asyncio.CancelledError,
        StoreUnavailable,
        StoreUnavailable,
    ]
    await asyncio.gather(*given_up, return_exceptions=True)
    await until(lambda: asyncio.all_tasks() == others)


class Server:
    """Numbers of events, and change streams that tell of them, in the place of a server."""

    def __init__(self):
        self.numbers = {}
        self.streams = []
        self.failures = []
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.answer.set()
        self.opened = asyncio.Event()
        self.opened.set()

    async def newest_numbers(self, keys):
        numbers = {key: self.numbers.get(key, 0) for key in keys}
        self.asked.set()
        await self.answer.wait()
        return numbers

    async def watch(self, _, max_await_time_ms):
        await self.opened.wait()
        if self.failures:
            raise self.failures.pop()
        self.streams.append(Stream())
        return self.streams[-1]


class Stream:
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
    server = Server()
    wakeups = WakeUps(server, server.newest_numbers, Calls("nowhere", 3))
    yield server, wakeups
    await wakeups.close()


def changed(key):
    return {"operationType": "update", "documentKey": {"_id": key}}


@pytest.mark.parametrize("end", [{"operationType": "invalidate"}, AutoReconnect("gone"), OperationFailure("lost", 286)])
async def test_a_stream_that_ends_is_opened_again_and_what_was_missed_is_found(fake, end):
    server, wakeups = fake
    missed = asyncio.create_task(wakeups.wait("missed", 0, PATIENCE))
    later = asyncio.create_task(wakeups.wait("later", 0, PATIENCE))
    await until(lambda: server.streams and len(wakeups._seen) == 2)
    server.opened.clear()
    server.streams[0].changes.put_nowait(end)
    await until(lambda: not server.streams[0].alive)
    server.numbers["missed"] = 1
    server.opened.set()
    assert await missed is True
    server.numbers["later"] = 1
    server.streams[1].changes.put_nowait(changed("later"))
    assert await later is True


@pytest.mark.parametrize("failure", [AutoReconnect("gone"), ExecutionTimeout("too late")])
async def test_a_stream_that_cannot_be_opened_in_time_is_tried_again_and_not_given_up_for_polling(fake, failure):
    server, wakeups = fake
    server.failures.append(failure)
    waiting = asyncio.create_task(wakeups.wait("mine", 0, PATIENCE))
    await until(lambda: server.streams)
    server.streams[0].changes.put_nowait(changed("mine"))
    assert await waiting is True


async def test_what_changes_while_the_first_stream_is_opened_is_found(fake):
    """The look at what is there already may be older than the stream, which does not tell of what came before it."""
    server, wakeups = fake
    server.answer.clear()
    server.opened.clear()
    first = asyncio.create_task(wakeups.wait("first", 0, PATIENCE))
    await server.asked.wait()
    server.asked.clear()
    server.answer.set()
    await until(lambda: "first" in wakeups._seen)
    server.answer.clear()
    second = asyncio.create_task(wakeups.wait("second", 0, PATIENCE))
    await server.asked.wait()
    server.numbers = {"first": 1, "second": 1}
    server.opened.set()
    await until(lambda: server.streams)
    server.answer.set()
    assert await asyncio.gather(first, second) == [True, True]


async def test_a_change_of_another_key_wakes_nobody(fake):
    server, wakeups = fake
    waiting = asyncio.create_task(wakeups.wait("mine", 0, PATIENCE))
    other = asyncio.create_task(wakeups.wait("other", 0, PATIENCE))
    await until(lambda: server.streams)
    server.streams[0].changes.put_nowait(changed("nobody's"))
    server.streams[0].changes.put_nowait(changed("other"))
    assert await other is True
    assert not waiting.done()
    wakeups.wake("mine")
    assert await waiting is True
