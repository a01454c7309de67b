"""How many commands each operation sends, and that they ask for what makes them right."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pymongo
import pytest
from mcp_tornado_mongodb import MongoStore
from mcp_tornado_mongodb.deployment import Deployment
from pymongo.monitoring import CommandListener

from mcp_tornado.stores import EventBounds, RevisionConflict, StreamEnded

pytestmark = pytest.mark.anyio

KEY = "key-0001-and-so-on"


class Listener(CommandListener):
    def __init__(self):
        self.commands = []

    def started(self, event):
        self.commands.append(event.command)

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass

    def names(self):
        """Return the names of the commands since the last call."""
        names = [next(iter(command)) for command in self.commands]
        self.commands.clear()
        return names


@pytest.fixture
def watched(nx_url, clock):
    """Make a store on nx-27017 that tells of its commands."""

    def make():
        listener = Listener()
        deployment = Deployment.of(nx_url, "pymongo")

        def connect():
            options = {"w": "majority", "journal": True, "event_listeners": [listener]}
            return pymongo.AsyncMongoClient(deployment.url, **options)

        store = MongoStore(clock, EventBounds(max_per_session=8), connect, database=deployment.database)
        return store, listener

    return make


async def test_the_commands_of_each_operation(watched, make_session, clock):
    store, listener = watched()
    session = make_session(KEY, principal="one")
    async with store:
        listener.names()

        async def commands(operation):
            await operation
            return listener.names()

        assert await commands(store.create(session)) == ["insert"]
        assert await commands(store.get(KEY)) == ["find"], "what every request costs"
        later = clock() + timedelta(seconds=100)
        assert await commands(store.touch(KEY, later, later)) == ["update"]
        assert await commands(store.update(KEY, {"state": {"n": 1}}, 0)) == ["find", "findAndModify"]
        assert await commands(store.count()) == ["aggregate"]
        assert await commands(store.count("one")) == ["aggregate"]
        assert await commands(store.page(None, 100)) == ["find"]
        assert await commands(store.ping()) == ["find"]

        assert await commands(store.read(KEY, None)) == ["find"]
        assert await commands(store.append(KEY, "get", {})) == ["find", "update"]
        first = (await store.read(KEY, None))[0].id
        listener.names()
        assert await commands(store.append(KEY, "get", {})) == ["find", "insert", "update"]
        assert await commands(store.append("@p", "get", {})) == ["find", "insert", "find", "update"]
        assert await commands(store.append("@p", "get", {})) == ["find", "insert", "update"]
        assert await commands(store.read(KEY, None)) == ["find", "find"]
        assert await commands(store.read(KEY, first)) == ["find"], "what who keeps up with a log is behind by"

        assert await commands(store.claim("lease", "me", 10)) == ["update", "insert"]
        assert await commands(store.claim("lease", "me", 10)) == ["update"]
        assert await commands(store.claim("lease", "you", 10)) == ["update", "insert", "update"]
        assert await commands(store.release("lease", "me")) == ["delete"]

        assert await commands(store.delete(KEY)) == ["findAndModify", "delete"]
        assert await commands(store.delete(KEY)) == ["findAndModify"]
        for number in range(50):
            await store.create(make_session(f"key-{number}"))
        clock.advance(1000)
        listener.names()
        assert await commands(store.sweep(clock(), 1000)) == ["find", "delete", "delete"]
        assert await commands(store.sweep(clock(), 1000)) == ["find", "delete"]


async def test_entering_again_makes_nothing_anew(watched):
    for expected in ({"find", "listIndexes", "createIndexes"}, {"find", "listIndexes"}):
        store, listener = watched()
        async with store:
            assert set(listener.names()) == expected


async def test_reads_are_of_the_primary_and_followers_see_only_what_a_majority_has(watched, make_session):
    store, listener = watched()
    async with store:
        await store.create(make_session(KEY))

        async def concerns(operation):
            listener.commands.clear()
            await operation
            assert all("$readPreference" not in command for command in listener.commands)
            assert all(0 < command["maxTimeMS"] <= 3000 for command in listener.commands), "the server gives up too"
            return {
                next(iter(command)): command.get("readConcern", command.get("writeConcern"))
                for command in listener.commands
            }

        local, majority, durable = {"level": "local"}, {"level": "majority"}, {"w": "majority", "j": True}
        assert await concerns(store.get(KEY)) == {"find": local}
        assert await concerns(store.count()) == {"aggregate": local}
        assert await concerns(store.update(KEY, {}, 0)) == {"find": local, "findAndModify": durable}
        assert await concerns(store.append(KEY, "get", {})) == {"find": local, "update": durable}
        assert await concerns(store.read(KEY, None)) == {"find": majority}
        assert (await concerns(store.wait(KEY, None, 0)))["find"] == majority


async def test_a_change_stream_is_asked_of_the_majority_and_names_keys_only(watched):
    """The server refuses a change stream with another read concern."""
    store, listener = watched()
    async with store:
        await store.wait("@p", None, 0)
        async with asyncio.timeout(30):
            while not (opened := [command for command in listener.commands if "aggregate" in command]):
                await asyncio.sleep(0.01)
        (command,) = opened
        assert command["readConcern"]["level"] == "majority"
        assert "$changeStream" in command["pipeline"][0]
        assert command["pipeline"][1:] == [{"$project": {"documentKey": 1, "operationType": 1}}]
    assert "killCursors" in listener.names(), "the server keeps nothing for a store that was closed"


async def test_a_conflict_and_an_ended_stream_are_found_without_trying_for_ever(watched, make_session):
    store, listener = watched()
    async with store:
        await store.create(make_session(KEY))
        listener.names()
        with pytest.raises(RevisionConflict):
            await store.update(KEY, {}, 7)
        assert listener.names() == ["find"]
        await store.append(KEY, "a", {}, final=True)
        listener.names()
        with pytest.raises(StreamEnded):
            await store.append(KEY, "a", {})
        assert listener.names() == ["find", "insert", "update", "find"]
