"""Several processes on one file: processes killed while they write, lock contention, and wake-ups between them."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import defaultdict

import pytest
from mcp_tornado_sqlite import sqlite_store

from mcp_tornado.sessions import system_clock

KEEP_ALL = {"events": {"max_per_session": 10**6, "max_bytes": 10**9}}
KILLS = 50


@pytest.fixture
def clock():
    return system_clock


@pytest.fixture
def write_until_killed(path, make_session):
    """Return a function that writes with several tasks, and reports each operation that was acknowledged."""

    def run(report, name, seed):
        generator = random.Random(seed)

        async def write(store, key):
            await store.create(make_session(key=key, lives=3600))
            report("created", key)
            for number in itertools.count(1):
                filling = "x" * generator.randrange(20_000)
                await store.append(key, "s", {"n": number, "filling": filling})
                report("appended", key, number)
                await store.update(key, {"state": {"n": number}}, number - 1)
                report("updated", key, number)
                if generator.random() < 0.05:
                    report("deleting", key)
                    await store.delete(key)
                    report("deleted", key)
                    return

        async def write_sessions(store, task):
            for number in itertools.count():
                await write(store, f"{name}-{task}-{number}")

        async def main():
            async with sqlite_store(f"sqlite:///{path}", KEEP_ALL, system_clock) as store:
                await asyncio.gather(*(write_sessions(store, task) for task in range(6)))

        asyncio.run(main())

    return run


def test_no_acknowledged_write_is_lost_when_writers_are_killed(fork, path, write_until_killed, query):
    generator = random.Random(20)
    acknowledged = defaultdict(dict)

    def add_reported(lines):
        for line in lines:
            operation, key, *number = line.split()
            acknowledged[key][operation] = int(number[0]) if number else True

    async def check(keys):
        async with sqlite_store(f"sqlite:///{path}", KEEP_ALL, system_clock) as store:
            for key in keys:
                operations = acknowledged[key]
                session = await store.get(key)
                numbers = [event.message["n"] for event in await store.read(key, None, limit=10**6)]
                if session is None:
                    assert numbers == []
                    assert "deleting" in operations
                else:
                    assert "deleted" not in operations
                    assert numbers == list(range(1, len(numbers) + 1))
                    assert len(numbers) >= operations.get("appended", 0)
                    assert session.state.get("n", 0) == session.revision >= operations.get("updated", 0)

    for number in range(KILLS // 2):
        children = [fork(write_until_killed, f"{number}-{name}", (number, name).__repr__()) for name in "ab"]
        before = set(acknowledged)
        for child in children:
            # The second process continues to write when the first one is dead.
            add_reported(child.read_lines(generator.randrange(80)))
            child.kill()
            add_reported(child.read_lines())
        asyncio.run(check(set(acknowledged) - before))
    asyncio.run(check(acknowledged))
    assert len(acknowledged) > 6 * KILLS / 2
    assert query("PRAGMA integrity_check") == [("ok",)]


def test_no_operation_fails_because_of_a_lock_when_many_processes_write(fork, path):
    async def write(report, name):
        async with sqlite_store(f"sqlite:///{path}", KEEP_ALL, system_clock) as store:

            async def append(task):
                for number in range(50):
                    await store.append("@shared", f"{name}-{task}", {"n": number})
                    await store.claim(f"lease-{name}-{task}", "me", 10)

            await asyncio.gather(*(append(task) for task in range(4)))

    children = [fork(lambda report, name=name: asyncio.run(write(report, name))) for name in range(5)]
    assert [child.wait() for child in children] == [0] * 5

    async def read_events():
        async with sqlite_store(f"sqlite:///{path}", KEEP_ALL, system_clock) as store:
            return await store.read("@shared", None, limit=10**6)

    events = asyncio.run(read_events())
    assert len(events) == len({event.id for event in events}) == 5 * 4 * 50
    streams = defaultdict(list)
    for event in events:
        streams[event.stream].append(event.message["n"])
    assert list(streams.values()) == [list(range(50))] * 20


def test_no_process_keeps_the_lock_from_the_others(fork, path):
    """A process that has written ten times as many events as another one did not let it have the lock."""
    count, tasks = 3000, 50

    async def write(report, name, start_signal):
        async with sqlite_store(f"sqlite:///{path}", KEEP_ALL, system_clock) as store:
            await store.append(f"@{name}", "s", {})
            report("ready")
            os.read(start_signal, 1)

            async def append():
                for _ in range(count // tasks):
                    await store.append(f"@{name}", "s", {})

            await asyncio.gather(*(append() for _ in range(tasks)))
            report(*[len(await store.read(f"@{other}", None, limit=10**6)) for other in "abc"])

    start_signal, start = os.pipe()
    children = [fork(lambda report, name=name: asyncio.run(write(report, name, start_signal))) for name in "abc"]
    assert [child.read_lines(1) for child in children] == [["ready"]] * 3
    os.write(start, b"xxx")
    written = [[int(number) for number in child.read_lines(1)[0].split()] for child in children]
    assert [child.wait() for child in children] == [0] * 3
    os.close(start_signal)
    os.close(start)
    when_the_first_process_ended = min(written, key=sum)
    assert min(when_the_first_process_ended) > count / 10


def test_an_append_wakes_a_waiter_in_another_process(fork, path):
    async def follow(report):
        async with sqlite_store(f"sqlite:///{path}", KEEP_ALL, system_clock) as store:
            report("ready")
            after, seen, waited = None, [], []
            while len(seen) < 20:
                waited.append(await store.wait("@p", after, 30))
                events = await store.read("@p", after)
                seen += [event.message["n"] for event in events]
                after = events[-1].id if events else after
                report(*seen)
            assert all(waited), "woken, not timed out"

    follower = fork(lambda report: asyncio.run(follow(report)))
    assert follower.read_lines(1) == ["ready"]

    async def write():
        async with sqlite_store(f"sqlite:///{path}", KEEP_ALL, system_clock) as store:
            for number in range(20):
                await store.append("@p", "s", {"n": number})
                # Append the next event only when the follower has reported this one.
                line = ""
                while not line.endswith(str(number)):
                    (line,) = await asyncio.to_thread(follower.read_lines, 1)
                    assert line, "the follower has ended"

    asyncio.run(write())
    assert follower.wait() == 0
