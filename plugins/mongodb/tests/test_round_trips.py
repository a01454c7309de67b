"""The commands that each operation sends, with their read and write concerns."""

from __future__ import annotations

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

    def take_names(self):
        """Return the names of the commands since the last call."""
        names = [next(iter(command)) for command in self.commands]
        self.commands.clear()
        return names


@pytest.fixture
def make_monitored_store(nx_url, clock):
    """Return a function that makes a store on nx-27017 and a listener of its commands."""

    def make():
        listener = Listener()
        deployment = Deployment.parse(nx_url, "pymongo")

        def connect():
            options = {"w": "majority", "journal": True, "event_listeners": [listener]}
            return pymongo.AsyncMongoClient(deployment.url, **options)

        store = MongoStore(clock, EventBounds(max_per_session=8), connect, database=deployment.database)
        return store, listener

    return make


async def test_each_operation_sends_few_commands(make_monitored_store, make_session, clock):
    store, listener = make_monitored_store()
    session = make_session(KEY, principal="one")
    async with store:
        listener.take_names()

        async def commands(operation):
            await operation
            return listener.take_names()

        assert await commands(store.create(session)) == ["insert"]
        assert await commands(store.get(KEY)) == ["find"], "every request of a client costs this"
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
        listener.take_names()
        assert await commands(store.append(KEY, "get", {})) == ["find", "insert", "update"]
        assert await commands(store.append("@p", "get", {})) == ["find", "insert", "find", "update"]
        assert await commands(store.append("@p", "get", {})) == ["find", "insert", "update"]
        assert await commands(store.read(KEY, None)) == ["find", "find"]
        assert await commands(store.read(KEY, first)) == ["find"], "a reader that is one event behind costs this"

        assert await commands(store.claim("lease", "me", 10)) == ["update", "insert"]
        assert await commands(store.claim("lease", "me", 10)) == ["update"]
        assert await commands(store.claim("lease", "you", 10)) == ["update", "insert", "update"]
        assert await commands(store.release("lease", "me")) == ["delete"]

        assert await commands(store.delete(KEY)) == ["findAndModify", "delete"]
        assert await commands(store.delete(KEY)) == ["findAndModify"]
        for number in range(50):
            await store.create(make_session(f"key-{number}"))
        clock.advance(1000)
        listener.take_names()
        assert await commands(store.sweep(clock(), 1000)) == ["find", "delete", "delete"]
        assert await commands(store.sweep(clock(), 1000)) == ["find", "delete"]


async def test_entering_again_creates_no_indexes(make_monitored_store):
    for expected in ({"find", "listIndexes", "createIndexes"}, {"find", "listIndexes"}):
        store, listener = make_monitored_store()
        async with store:
            assert set(listener.take_names()) == expected


async def test_sessions_are_read_from_the_primary_and_events_with_majority_concern(make_monitored_store, make_session):
    store, listener = make_monitored_store()
    async with store:
        await store.create(make_session(KEY))

        async def get_concerns(operation):
            listener.commands.clear()
            await operation
            assert all("$readPreference" not in command for command in listener.commands)
            assert all(0 < command["maxTimeMS"] <= 3000 for command in listener.commands), (
                "the server stops the command too"
            )
            return {
                next(iter(command)): command.get("readConcern", command.get("writeConcern"))
                for command in listener.commands
            }

        local, majority, durable = {"level": "local"}, {"level": "majority"}, {"w": "majority", "j": True}
        assert await get_concerns(store.get(KEY)) == {"find": local}
        assert await get_concerns(store.count()) == {"aggregate": local}
        assert await get_concerns(store.update(KEY, {}, 0)) == {"find": local, "findAndModify": durable}
        assert await get_concerns(store.append(KEY, "get", {})) == {"find": local, "update": durable}
        assert await get_concerns(store.read(KEY, None)) == {"find": majority}
        assert (await get_concerns(store.wait(KEY, None, 0)))["find"] == majority


async def test_a_change_stream_has_majority_concern_and_reports_keys_only(make_monitored_store, eventually):
    """The server refuses a change stream with another read concern."""
    store, listener = make_monitored_store()
    async with store:
        await store.wait("@p", None, 0)

        def list_aggregations():
            return [command for command in listener.commands if "aggregate" in command]

        await eventually(list_aggregations, "the change stream is open")
        (command,) = list_aggregations()
        assert command["readConcern"]["level"] == "majority"
        assert "$changeStream" in command["pipeline"][0]
        assert command["pipeline"][1:] == [{"$project": {"documentKey": 1, "operationType": 1}}]
    assert "killCursors" in listener.take_names(), "closing the store closes the cursor at the server"


async def test_a_conflict_and_an_ended_stream_are_found_without_retries(make_monitored_store, make_session):
    store, listener = make_monitored_store()
    async with store:
        await store.create(make_session(KEY))
        listener.take_names()
        with pytest.raises(RevisionConflict):
            await store.update(KEY, {}, 7)
        assert listener.take_names() == ["find"]
        await store.append(KEY, "a", {}, final=True)
        listener.take_names()
        with pytest.raises(StreamEnded):
            await store.append(KEY, "a", {})
        assert listener.take_names() == ["find", "insert", "update", "find"]
