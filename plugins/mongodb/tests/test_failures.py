"""What is told when the server is away, refuses, hangs, or is asked for too much."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from mcp_tornado_mongodb import mongodb_store
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

KEY = "key-0001-and-so-on"
PATIENCE = 30


@pytest.fixture
def nowhere(unused_port):
    return f"mongodb://u:hunter2@127.0.0.1:{unused_port}/x"


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_entering_without_a_server_says_where_it_should_be_and_what_to_look_at(clock, nowhere, driver):
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreUnavailable) as caught:
            await mongodb_store(nowhere, {"driver": driver}, clock).__aenter__()
    message = str(caught.value)
    assert "127.0.0.1" in message
    assert "is it running" in message
    assert len(message) < 200
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_entering_can_be_given_up(clock, nowhere):
    others = asyncio.all_tasks()
    entering = asyncio.create_task(mongodb_store(nowhere, {}, clock).__aenter__())
    while asyncio.all_tasks() - others == {entering}:
        await asyncio.sleep(0)
    entering.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await entering
        while asyncio.all_tasks() != others:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("code", "name", "advice"),
    [
        (13, "Unauthorized", "readWrite"),
        (18, "AuthenticationFailed", "authSource"),
        (11600, "InterruptedAtShutdown", ""),
    ],
)
async def test_what_the_server_refuses_is_told_by_its_name_and_not_in_its_words(nx, monkeypatch, code, name, advice):
    async def find_one(*_, **__):
        raise OperationFailure("a text that quotes hunter2", code, {"codeName": name})

    async with nx.make_store() as store:
        monkeypatch.setattr(AsyncCollection, "find_one", find_one)
        with pytest.raises(StoreUnavailable) as caught:
            await store.get(KEY)
    assert name in str(caught.value)
    assert advice in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_server_that_hangs_is_unavailable_until_it_goes_on(nx, nx_hang, make_session, driver):
    async with nx.make_store(driver=driver) as store:
        await store.create(make_session(KEY))
        async with nx_hang, asyncio.timeout(PATIENCE):
            calls = [store.get(KEY), store.append(KEY, "get", {}), *(store.append(KEY, "get", {}) for _ in range(5))]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [StoreUnavailable] * len(calls)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    assert (await store.get(KEY)).key == KEY
                except StoreUnavailable:
                    await asyncio.sleep(0.05)
                else:
                    break


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_store_can_be_closed_while_the_server_hangs(nx, nx_hang, driver):
    store = await nx.make_store(driver=driver).__aenter__()
    waiting = asyncio.create_task(store.wait("@p", None, 10 * PATIENCE))
    while store._opened.wakeups._stream is None:
        await asyncio.sleep(0.01)
    async with nx_hang, asyncio.timeout(PATIENCE):
        await store.__aexit__(None, None, None)
        with pytest.raises(StoreUnavailable):
            await waiting


async def test_a_call_that_the_driver_never_ends_is_ended_when_the_store_is_closed(nx_url, clock, monkeypatch):
    others = asyncio.all_tasks()

    async def find_one(*_, **__):
        await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE):
        async with mongodb_store(nx_url, {}, clock) as store:
            monkeypatch.setattr(store, "_limit", 0.2)
            monkeypatch.setattr(AsyncCollection, "find_one", find_one)
            with pytest.raises(StoreUnavailable):
                await store.get(KEY)
        while asyncio.all_tasks() != others:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_what_does_not_fit_into_a_document_is_refused_and_changes_nothing(nx, make_session, driver):
    too_large = {"s": "x" * 17_000_000}
    async with nx.make_store(driver=driver) as store:
        await store.create(make_session(KEY))
        first = await store.append(KEY, "get", {"n": 1})
        with pytest.raises(ValueError, match="16 MB"):
            await store.append(KEY, "get", too_large)
        with pytest.raises(ValueError, match="16 MB"):
            await store.update(KEY, {"state": too_large}, 0)
        with pytest.raises(ValueError, match="16 MB"):
            await store.create(make_session("other", state=too_large))
        assert await store.get(KEY) == make_session(KEY)
        assert await store.get("other") is None
        assert [event.id for event in await store.read(KEY, None)] == [first]
        await store.append(KEY, "get", {"n": 2})
        assert [event.message for event in await store.read(KEY, None)] == [{"n": 1}, {"n": 2}]
