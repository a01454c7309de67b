"""Many processes on one file: deaths in the middle of writing, waiting for the lock, waking each other."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import defaultdict

import pytest
from mcp_tornado_sqlite import sqlite_store

from mcp_tornado.sessions import system_clock

ALL = {"events": {"max_per_session": 10**6, "max_bytes": 10**9}}
KILLS = 50


@pytest.fixture
def clock():
    return system_clock


@pytest.fixture
def write_until_killed(path, make_session):
    """Write with several tasks, and tell what was acknowledged."""

    def run(tell, name, seed):
        chance = random.Random(seed)

        async def write(store, key):
            await store.create(make_session(key=key, lives=3600))
            tell("created", key)
            for number in itertools.count(1):
                filling = "x" * chance.randrange(20_000)
                await store.append(key, "s", {"n": number, "filling": filling})
                tell("appended", key, number)
                await store.update(key, {"state": {"n": number}}, number - 1)
                tell("updated", key, number)
                if chance.random() < 0.05:
                    tell("deleting", key)
                    await store.delete(key)
                    tell("deleted", key)
                    return

        async def go_on(store, task):
            for number in itertools.count():
                await write(store, f"{name}-{task}-{number}")

        async def main():
            async with sqlite_store(f"sqlite:///{path}", ALL, system_clock) as store:
                await asyncio.gather(*(go_on(store, task) for task in range(6)))

        asyncio.run(main())

    return run


def test_nothing_that_was_acknowledged_is_lost_when_writers_are_killed(fork, path, write_until_killed, rows):
    chance = random.Random(20)
    acknowledged = defaultdict(dict)

    def note(lines):
        for line in lines:
            what, key, *number = line.split()
            acknowledged[key][what] = int(number[0]) if number else True

    async def check(keys):
        async with sqlite_store(f"sqlite:///{path}", ALL, system_clock) as store:
            for key in keys:
                told = acknowledged[key]
                session = await store.get(key)
                numbers = [event.message["n"] for event in await store.read(key, None, limit=10**6)]
                if session is None:
                    assert numbers == []
                    assert "deleting" in told
                else:
                    assert "deleted" not in told
                    assert numbers == list(range(1, len(numbers) + 1))
                    assert len(numbers) >= told.get("appended", 0)
                    assert session.state.get("n", 0) == session.revision >= told.get("updated", 0)

    for number in range(KILLS // 2):
        children = [fork(write_until_killed, f"{number}-{one}", (number, one).__repr__()) for one in "ab"]
        before = set(acknowledged)
        for child in children:
            # The second one goes on when the first is dead.
            note(child.lines(chance.randrange(80)))
            child.kill()
            note(child.lines())
        asyncio.run(check(set(acknowledged) - before))
    asyncio.run(check(acknowledged))
    assert len(acknowledged) > 6 * KILLS / 2
    assert rows("PRAGMA integrity_check") == [("ok",)]


def test_many_processes_write_at_once_and_none_is_told_of_a_lock(fork, path):
    async def write(tell, name):
        async with sqlite_store(f"sqlite:///{path}", ALL, system_clock) as store:

            async def append(task):
                for number in range(50):
                    await store.append("@shared", f"{name}-{task}", {"n": number})
                    await store.claim(f"lease-{name}-{task}", "me", 10)

            await asyncio.gather(*(append(task) for task in range(4)))

    children = [fork(lambda tell, name=name: asyncio.run(write(tell, name))) for name in range(5)]
    assert [child.wait() for child in children] == [0] * 5

    async def look():
        async with sqlite_store(f"sqlite:///{path}", ALL, system_clock) as store:
            return await store.read("@shared", None, limit=10**6)

    events = asyncio.run(look())
    assert len(events) == len({event.id for event in events}) == 5 * 4 * 50
    streams = defaultdict(list)
    for event in events:
        streams[event.stream].append(event.message["n"])
    assert list(streams.values()) == [list(range(50))] * 20


def test_no_process_takes_the_lock_all_the_time(fork, path):
    """Whoever has written ten times as much as another has left it without the lock."""
    count, tasks = 3000, 50

    async def write(tell, name, go):
        async with sqlite_store(f"sqlite:///{path}", ALL, system_clock) as store:
            await store.append(f"@{name}", "s", {})
            tell("ready")
            os.read(go, 1)

            async def append():
                for _ in range(count // tasks):
                    await store.append(f"@{name}", "s", {})

            await asyncio.gather(*(append() for _ in range(tasks)))
            tell(*[len(await store.read(f"@{other}", None, limit=10**6)) for other in "abc"])

    waiting, go = os.pipe()
    children = [fork(lambda tell, name=name: asyncio.run(write(tell, name, waiting))) for name in "abc"]
    assert [child.lines(1) for child in children] == [["ready"]] * 3
    os.write(go, b"xxx")
    written = [[int(number) for number in child.lines(1)[0].split()] for child in children]
    assert [child.wait() for child in children] == [0] * 3
    os.close(waiting)
    os.close(go)
    when_the_first_was_done = min(written, key=sum)
    assert min(when_the_first_was_done) > count / 10


def test_a_process_is_woken_by_another(fork, path):
    async def follow(tell):
        async with sqlite_store(f"sqlite:///{path}", ALL, system_clock) as store:
            tell("ready")
            after, seen, waited = None, [], []
            while len(seen) < 20:
                waited.append(await store.wait("@p", after, 30))
                events = await store.read("@p", after)
                seen += [event.message["n"] for event in events]
                after = events[-1].id if events else after
                tell(*seen)
            assert all(waited), "woken, not out of time"

    follower = fork(lambda tell: asyncio.run(follow(tell)))
    assert follower.lines(1) == ["ready"]

    async def write():
        async with sqlite_store(f"sqlite:///{path}", ALL, system_clock) as store:
            for number in range(20):
                await store.append("@p", "s", {"n": number})
                # The next one only when this one was seen.
                line = ""
                while not line.endswith(str(number)):
                    (line,) = await asyncio.to_thread(follower.lines, 1)

    asyncio.run(write())
    assert follower.wait() == 0
