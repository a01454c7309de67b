"""Several processes that append to one log, and processes that die while they append."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_tornado.stores import EventId

pytestmark = pytest.mark.anyio

KEY = "key-0001-and-so-on"
TIMEOUT_SECONDS = 60


@asynccontextmanager
async def start_appender(url, driver, name, count):
    program = str(Path(__file__).with_name("appender.py"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, url, driver, KEY, name, str(count), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def follow(store, count):
    """Return the first `count` events, read as they are appended."""
    events, after = [], None
    while len(events) < count:
        new = await store.read(KEY, after, limit=7)
        events += new
        if new:
            after = new[-1].id
        else:
            await store.wait(KEY, after, TIMEOUT_SECONDS)
    return events


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_reader_gets_the_events_of_several_processes_once_and_in_order(
    nx_backend, nx_url, make_session, driver
):
    names, each = ["one", "two", "three"], 25
    async with nx_backend.make_store(driver=driver) as store, asyncio.timeout(TIMEOUT_SECONDS):
        await store.create(make_session(KEY, lives=1000))
        following = asyncio.create_task(follow(store, len(names) * each))
        acknowledged = []
        async with (
            start_appender(nx_url, driver, "one", each) as one,
            start_appender(nx_url, driver, "two", each) as two,
            start_appender(nx_url, driver, "three", each) as three,
        ):
            for process in (one, two, three):
                acknowledged += (await process.stdout.read()).decode().split()
        events = await following
        assert sorted(acknowledged) == [event.id for event in events]
        assert [EventId.parse(event.id).number for event in events] == list(range(1, len(names) * each + 1))
        for name in names:
            assert [event.message["n"] for event in events if event.stream == name] == list(range(each))


async def test_no_acknowledged_event_is_lost_when_a_process_dies_while_it_appends(nx_backend, nx_url, make_session):
    async with nx_backend.make_store() as store, asyncio.timeout(TIMEOUT_SECONDS):
        await store.create(make_session(KEY, lives=1000))
        acknowledged = []
        for turn in range(5):
            async with start_appender(nx_url, "pymongo", f"turn-{turn}", 1_000_000) as process:
                printed = [await process.stdout.readline() for _ in range(10 + turn)]
                process.kill()
                printed.append(await process.stdout.read())
                acknowledged += b"".join(printed).decode().split()
        acknowledged.append(await store.append(KEY, "last", {}))
        events = await store.read(KEY, None, limit=1_000_000)
        assert [EventId.parse(event.id).number for event in events] == list(range(1, len(events) + 1))
        assert set(acknowledged) <= {event.id for event in events}


async def test_an_event_that_a_dead_process_has_archived_appears_once(backend, make_session):
    """The test does what a process does that dies between the second and the third step of an append."""
    make_store, database = backend
    async with make_store() as store:
        await store.create(make_session(KEY))
        ids = [await store.append(KEY, "get", {"n": number}) for number in range(3)]
        document = database["sessions"].find_one({"_id": KEY})
        third = {
            "_id": f"{document['log']['id']}:{3:018d}",
            **document["newest"],
            "expires": document["times"]["expires"],
        }
        database["events"].insert_one(third)
        assert [event.id for event in await store.read(KEY, None)] == ids, "not twice"
        ids.append(await store.append(KEY, "get", {"n": 3}))
        assert [event.id for event in await store.read(KEY, None)] == ids
        assert [event.message["n"] for event in await store.read(KEY, None)] == [0, 1, 2, 3]


async def test_an_append_wakes_a_waiter_in_another_process(nx_backend, nx_url, make_session):
    async with nx_backend.make_store() as store, asyncio.timeout(TIMEOUT_SECONDS):
        await store.create(make_session(KEY, lives=1000))
        waiting = asyncio.create_task(store.wait(KEY, None, TIMEOUT_SECONDS))
        async with start_appender(nx_url, "pymongo", "one", 1) as process:
            await process.wait()
            assert await waiting is True
