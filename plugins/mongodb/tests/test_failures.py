"""Errors when the server cannot be reached, refuses a command, hangs, or is sent too much data."""

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
TIMEOUT_SECONDS = 30


@pytest.fixture
def url_without_server(unused_port):
    return f"mongodb://u:hunter2@127.0.0.1:{unused_port}/x"


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_entering_without_a_server_names_its_address_and_no_password(clock, url_without_server, driver):
    async with asyncio.timeout(TIMEOUT_SECONDS):
        with pytest.raises(StoreUnavailable) as caught:
            await mongodb_store(url_without_server, {"driver": driver}, clock).__aenter__()
    message = str(caught.value)
    assert "127.0.0.1" in message
    assert "is it running" in message
    assert len(message) < 200
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_entering_can_be_cancelled(clock, url_without_server, eventually):
    others = asyncio.all_tasks()
    entering = asyncio.create_task(mongodb_store(url_without_server, {}, clock).__aenter__())
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - others > {entering}, "the task of the first call of the driver has begun"
    entering.cancel()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        with pytest.raises(asyncio.CancelledError):
            await entering
    await eventually(lambda: asyncio.all_tasks() == others, "all tasks of the store have ended")


@pytest.mark.parametrize(
    ("code", "name", "advice"),
    [
        (13, "Unauthorized", "readWrite"),
        (18, "AuthenticationFailed", "authSource"),
        (11600, "InterruptedAtShutdown", ""),
    ],
)
async def test_an_error_of_the_server_is_named_and_its_text_is_not_quoted(nx_backend, monkeypatch, code, name, advice):
    async def find_one(*_, **__):
        raise OperationFailure("a text that quotes hunter2", code, {"codeName": name})

    async with nx_backend.make_store() as store:
        monkeypatch.setattr(AsyncCollection, "find_one", find_one)
        with pytest.raises(StoreUnavailable) as caught:
            await store.get(KEY)
    assert name in str(caught.value)
    assert advice in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_server_that_hangs_is_unavailable_until_it_answers_again(
    nx_backend, nx_hang, make_session, driver, retry_until_available
):
    async with nx_backend.make_store(driver=driver) as store:
        await store.create(make_session(KEY))
        async with nx_hang, asyncio.timeout(TIMEOUT_SECONDS):
            calls = [store.get(KEY), store.append(KEY, "get", {}), *(store.append(KEY, "get", {}) for _ in range(5))]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [StoreUnavailable] * len(calls)
        assert (await retry_until_available(lambda: store.get(KEY))).key == KEY


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_store_can_be_closed_while_the_server_hangs(nx_backend, nx_hang, driver, eventually):
    store = await nx_backend.make_store(driver=driver).__aenter__()
    waiting = asyncio.create_task(store.wait("@p", None, 10 * TIMEOUT_SECONDS))
    await eventually(lambda: store._opened.wakeups._stream is not None, "the change stream is open")
    async with nx_hang, asyncio.timeout(TIMEOUT_SECONDS):
        await store.__aexit__(None, None, None)
        with pytest.raises(StoreUnavailable):
            await waiting


async def test_a_call_that_the_driver_never_ends_is_cancelled_when_the_store_is_closed(
    nx_url, clock, monkeypatch, eventually
):
    others = asyncio.all_tasks()

    async def find_one(*_, **__):
        await asyncio.Event().wait()

    async with asyncio.timeout(TIMEOUT_SECONDS):
        async with mongodb_store(nx_url, {}, clock) as store:
            monkeypatch.setattr(store, "_limit", 0.2)
            monkeypatch.setattr(AsyncCollection, "find_one", find_one)
            with pytest.raises(StoreUnavailable):
                await store.get(KEY)
    await eventually(lambda: asyncio.all_tasks() == others, "all tasks of the store have ended")


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_data_that_does_not_fit_into_a_document_is_refused_and_changes_nothing(nx_backend, make_session, driver):
    too_large = {"s": "x" * 17_000_000}
    async with nx_backend.make_store(driver=driver) as store:
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
