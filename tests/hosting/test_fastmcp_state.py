"""What FastMCP keeps for its clients, and where: without a server around it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from fastmcp import Client, FastMCP
from fastmcp.server.providers import AggregateProvider, FastMCPProvider
from key_value.aio.protocols import AsyncKeyValue
from key_value.aio.stores.memory import MemoryStore as OwnStore
from tornado.httputil import HTTPHeaders

from mcp_tornado import state
from mcp_tornado.hosting import InboundRequest
from mcp_tornado.hosting.context import session_context, sessionless_context
from mcp_tornado.hosting.fastmcp import low_level_server, store_state_in_sessions
from mcp_tornado.hosting.fastmcp_state import FastMCPState
from mcp_tornado.sessions import (
    ClientInfo,
    ErrorCode,
    SessionError,
    StateTooLarge,
    StoreUnavailable,
)
from mcp_tornado.sessions.ids import named_key
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

INBOUND = InboundRequest("POST", "http", "127.0.0.1", "/mcp", "", HTTPHeaders({"User-Agent": "x"}), "192.0.2.1")
RULES = "_visibility_rules"


class CountingStore(MemoryStore):
    """Counts what is asked of it; while it is away it answers nothing."""

    def __init__(self, clock):
        super().__init__(clock)
        self.calls = Counter()
        self.away = False

    def _asked(self, operation):
        self.calls[operation] += 1
        if self.away:
            raise StoreUnavailable("away")

    async def create(self, session):
        self._asked("create")
        await super().create(session)

    async def get(self, key):
        self._asked("get")
        return await super().get(key)

    async def update(self, key, changes, expected_revision):
        self._asked("update")
        return await super().update(key, changes, expected_revision)


@pytest.fixture
async def store(anyio_backend, clock):
    async with CountingStore(clock) as store:
        yield store


@pytest.fixture
async def session(manager):
    _, session = await manager.create(client=ClientInfo(), protocol_version="2025-11-25", client_params={})
    return session


@pytest.fixture
def kept():
    return FastMCPState("")


def value(content):
    return {"value": content}


def rule(name, enabled=False):
    return {"enabled": enabled, "names": [name], "tags": None}


def test_it_is_what_fastmcp_asks_for(kept):
    assert isinstance(kept, AsyncKeyValue)


# ---------------------------------------------------------------- in a session


async def test_what_one_request_keeps_another_finds_in_any_process(kept, manager, make_manager, session):
    key = f"{session.key}:n:1"
    with session_context(manager, session):
        assert await kept.get(key) is None
        await kept.put(key, value(1), ttl=86_400)
        assert await kept.get(key) == value(1)
    with session_context(make_manager(), session):
        assert await FastMCPState("").get(key) == value(1)
        assert await FastMCPState("another").get(key) is None
        assert await kept.delete(key) is True
    with session_context(manager, session):
        assert await kept.get(key) is None
        assert await kept.delete(key) is False


async def test_several_at_once(kept, manager, session):
    keys = [f"{session.key}:{name}" for name in "ab"]
    with session_context(manager, session):
        await kept.put_many(keys, [value(1), value(2)], ttl=1)
        assert await kept.get_many([*keys, f"{session.key}:c"]) == [value(1), value(2), None]
        assert await kept.ttl(keys[0]) == (value(1), None)
        assert await kept.ttl_many(keys) == [(value(1), None), (value(2), None)]
        assert await kept.delete_many([*keys, *keys]) == 2


async def test_it_lives_as_long_as_the_session(kept, make_manager, clock):
    manager = make_manager(idle_timeout=1_000_000, lifetime=0)
    _, session = await manager.create(client=ClientInfo(), protocol_version="2025-11-25", client_params={})
    key = f"{session.key}:n"
    with session_context(manager, session):
        await kept.put(key, value(1), ttl=86_400)
        clock.advance(100_000)
        assert await kept.get(key) == value(1)
        await manager.terminate(session.key)
        for operation in (kept.get(key), kept.put(key, value(1)), kept.delete(key)):
            with pytest.raises(SessionError, match="Session not found"):
                await operation


async def test_what_is_changed_afterwards_changes_nothing(kept, manager, session):
    for key in (f"{session.key}:n", f"{session.key}:{RULES}", "session:anon:x", "made-up:n"):
        given = value([rule("a")])
        with session_context(manager, session):
            await kept.put(key, given)
            given["value"].append(1)
            for _ in range(2):
                (await kept.get(key))["value"].append(2)
            assert await kept.get(key) == value([rule("a")])


async def test_the_rules_of_visibility_are_read_without_asking_the_store(kept, manager, store, session):
    key = f"{session.key}:{RULES}"
    with session_context(manager, session):
        await kept.put(key, value([rule("a")]))
        store.calls.clear()
        assert await kept.get(key) == value([rule("a")])
        assert store.calls == {}
    with session_context(manager, await manager.find(session.key)):
        store.calls.clear()
        assert await kept.get(key) == value([rule("a")])
        assert store.calls == {}


async def test_rules_that_two_requests_add_at_once_are_both_kept(kept, manager, session):
    key = f"{session.key}:{RULES}"
    with session_context(manager, session) as one:
        await kept.put(key, value([rule("a")]))
        with session_context(manager, session):  # which has seen nothing of that
            assert await kept.get(key) is None
            await kept.put(key, value([rule("b")]))
            assert await kept.get(key) == value([rule("a"), rule("b")])
        assert one.session is not None
        await kept.put(key, value([rule("a"), rule("c")]))
        assert await kept.get(key) == value([rule("a"), rule("b"), rule("c")])
        await kept.put(key, value([rule("a"), rule("b"), rule("c"), rule("a", enabled=True)]))
        assert await kept.get(key) == value([rule("b"), rule("c"), rule("a", enabled=True)])
        await kept.put(key, value([]))
        assert await kept.get(key) == value([])


async def test_nothing_that_many_keep_at_once_is_lost(kept, manager, make_manager, session):
    async def keep(number):
        with session_context(make_manager(), session):
            await kept.put(f"{session.key}:{number}", value(number))
            await kept.put(f"{session.key}:{RULES}", value([rule(str(number))]))

    await asyncio.gather(*(keep(number) for number in range(30)))
    with session_context(manager, await manager.find(session.key)):
        for number in range(30):
            assert await kept.get(f"{session.key}:{number}") == value(number)
        rules = (await kept.get(f"{session.key}:{RULES}"))["value"]
    assert sorted(int(each["names"][0]) for each in rules) == list(range(30))


async def test_it_stands_beside_the_state_of_the_application(kept, manager, session):
    with session_context(manager, session):
        await kept.put(f"{session.key}:n", value(1))
        assert await state.current().update(lambda data: data.update(n=2)) == {"n": 2}
        await state.current().update(dict.clear)
        assert await kept.get(f"{session.key}:n") == value(1)


@pytest.mark.parametrize("key", ["{session}:n", "made-up:n", "session:anon:x"])
async def test_what_is_too_large_or_no_json_is_refused_and_changes_nothing(kept, make_manager, session, key):
    key = key.format(session=session.key)
    with session_context(make_manager(max_state_bytes=60), session):
        await kept.put(key, value("x"))
        with pytest.raises(StateTooLarge, match=r"sessions\.max_state_bytes allows 60"):
            await kept.put(key, value("x" * 60))
        with pytest.raises((TypeError, ValueError)):
            await kept.put(key, value(object()))
        assert await kept.get(key) == value("x")


@pytest.mark.parametrize("key", ["{session}:n", "session:anon:x"])
async def test_a_store_that_is_away_is_said_to_be(kept, manager, store, session, key):
    key = key.format(session=session.key)
    with session_context(manager, session):
        store.away = True
        for operation in (kept.get(key), kept.put(key, value(1))):
            with pytest.raises(SessionError) as raised:
                await operation
            assert raised.value.code is ErrorCode.STORE_UNAVAILABLE


# ---------------------------------------------------------------- for one message, and outside of any


async def test_what_is_kept_for_a_message_ends_with_it_and_is_never_stored(kept, manager, store, session):
    for surrounding in (session_context(manager, session), sessionless_context(manager, INBOUND)):
        with surrounding:
            store.calls.clear()
            await kept.put("made-up:n", value(1))
            await kept.put(f"made-up:{RULES}", value([rule("a")]))
            assert await kept.get("made-up:n") == value(1)
            assert await kept.get(f"made-up:{RULES}") == value([rule("a")])
            assert await kept.get("another:n") is await FastMCPState("other").get("made-up:n") is None
            assert await kept.delete("made-up:n") is True
            assert await kept.delete("made-up:n") is False
            assert store.calls == {}
        with sessionless_context(manager, INBOUND):
            assert await kept.get(f"made-up:{RULES}") is None


async def test_nobody_gets_at_a_session_by_naming_it(kept, manager, session):
    with session_context(manager, session):
        await kept.put(f"{session.key}:n", value(1))
    with sessionless_context(manager, INBOUND):
        assert await kept.get(f"{session.key}:n") is None
        await kept.put(f"{session.key}:n", value(2))
        assert await kept.delete(f"{session.key}:n") is True
    with session_context(manager, session):
        assert await kept.get(f"{session.key}:n") == value(1)


async def test_outside_of_our_requests_it_is_kept_in_memory_as_ever(kept, manager, session):
    key = f"{session.key}:n"
    await kept.put(key, value(1), collection="c", ttl=100)
    assert await kept.get(key, collection="c") == value(1)
    with session_context(manager, session):
        assert await kept.get(key, collection="c") is None
    assert await kept.delete(key, collection="c") is True
    assert await kept.get(key, collection="c") is None


# ---------------------------------------------------------------- what outlives requests


async def test_what_outlives_requests_is_found_by_every_other_in_any_process(kept, manager, make_manager, session):
    keys = ["session:anon:1", "user:abc:_visibility_rules", "session:anon:ä\n\udcff"]
    with sessionless_context(manager, INBOUND):
        for key in keys:
            assert await kept.get(key) is None
            await kept.put(key, value(key[:9]))
            await kept.put(key, value([key[:9]]))
    with session_context(make_manager(), session):
        for key in keys:
            assert await FastMCPState("").get(key) == value([key[:9]])
            assert await FastMCPState("another").get(key) is None
            assert await kept.delete(key) is True
            assert await kept.delete(key) is False
            assert await kept.get(key) is None


async def test_it_lives_as_long_as_it_is_used_until_its_lifetime_ends(kept, manager, clock):
    with sessionless_context(manager, INBOUND):
        await kept.put("session:anon:1", value(1))
        for _ in range(9):
            clock.advance(100)
            assert await kept.get("session:anon:1") == value(1)
        clock.advance(100)
        assert await kept.get("session:anon:1") is None
    with sessionless_context(manager, INBOUND):
        await kept.put("session:anon:1", value(2))  # before the first is swept
        assert await kept.get("session:anon:1") == value(2)
        clock.advance(111)
        assert await kept.get("session:anon:1") is None


async def test_what_another_request_has_ended_does_not_come_back(kept, manager, make_manager):
    key = "session:anon:1"
    with sessionless_context(manager, INBOUND):
        await kept.put(key, value(1))
    with sessionless_context(manager, INBOUND):
        assert await kept.get(key) == value(1)
        with sessionless_context(make_manager(), INBOUND):
            assert await kept.delete(key) is True
        for _ in range(2):
            with pytest.raises(SessionError) as raised:
                await kept.put(key, value(2))
            assert raised.value.code is ErrorCode.SESSION_NOT_FOUND
            assert await kept.get(key) is None


async def test_what_a_request_has_made_and_another_has_ended_does_not_come_back(kept, manager, make_manager):
    with sessionless_context(manager, INBOUND):
        await kept.put("session:anon:1", value(1))
        with sessionless_context(make_manager(), INBOUND):
            assert await kept.delete("session:anon:1") is True
        with pytest.raises(SessionError) as raised:
            await kept.put("session:anon:1", value(2))
    assert raised.value.code is ErrorCode.SESSION_NOT_FOUND


async def test_what_a_request_has_ended_itself_it_may_begin_anew(kept, manager):
    with sessionless_context(manager, INBOUND):
        await kept.put("user:abc:", value(1))
        assert await kept.get("user:abc:") == value(1)
        assert await kept.delete("user:abc:") is True
        await kept.put("user:abc:", value(2))
        assert await kept.get("user:abc:") == value(2)


async def test_it_counts_as_a_session_once(kept, make_manager):
    with sessionless_context(make_manager(max_sessions=1), INBOUND):
        for number in range(3):
            await kept.put("session:anon:1", value(number))
        with pytest.raises(SessionError) as raised:
            await kept.put("session:anon:2", value(1))
    assert raised.value.code is ErrorCode.SESSION_LIMIT_REACHED


async def test_of_many_who_make_it_at_once_one_has_the_last_word(kept, make_manager):
    async def keep(number):
        with sessionless_context(make_manager(), INBOUND):
            await kept.put("session:anon:1", value(number))

    await asyncio.gather(*(keep(number) for number in range(20)))
    with sessionless_context(make_manager(), INBOUND):
        assert (await kept.get("session:anon:1"))["value"] in range(20)
        assert await make_manager().count() == 1


async def test_clients_cannot_name_it(kept, manager, store):
    with sessionless_context(manager, INBOUND):
        await kept.put("session:anon:1", value(1))
        (record,) = await store.page(None, 10)
        assert record.is_handle
        for name in ("session:anon:1", "fastmcp \nsession:anon:1", record.key):
            with pytest.raises(state.StateNotFound):
                await state.open(name)
            with pytest.raises(SessionError):
                await manager.validate(name)
        assert record.key == named_key("fastmcp \nsession:anon:1")


# ---------------------------------------------------------------- servers that are mounted


def tree(*, more: str | None = None) -> dict[str, FastMCP]:
    """Make servers as each process makes them."""
    servers = {"root": FastMCP(), "a": FastMCP("a"), "again a": FastMCP("a"), "nested": FastMCP("nested")}
    servers |= {"unnamed": FastMCP(), "another": FastMCP(), "deep": FastMCP(), "own": FastMCP("own")}
    servers["own"] = FastMCP("own", session_state_store=OwnStore())
    if more is not None:
        servers["more"] = FastMCP(more)
        servers["root"].mount(servers["more"])
    servers["root"].mount(servers["a"])
    servers["root"].mount(servers["again a"], namespace="a", tool_names={"x": "y"})
    servers["a"].mount(servers["nested"], namespace="n")
    servers["root"].mount(servers["unnamed"])
    servers["root"].add_provider(servers["another"], namespace="o")
    servers["root"].add_provider(AggregateProvider([FastMCPProvider(servers["deep"])]))
    servers["root"].mount(servers["own"])
    servers["root"].mount(servers["a"], namespace="twice")
    return servers


async def read(manager, session, servers):
    """Return what each server finds under one key."""
    with session_context(manager, session):
        return {
            name: found.value if (found := await server._state_store.get(f"{session.key}:n")) is not None else None
            for name, server in servers.items()
        }


async def test_each_server_has_its_own_and_the_same_in_every_process(manager, session):
    from fastmcp.server.server import StateValue

    here, there = tree(), tree()
    for servers in (here, there):
        store_state_in_sessions(servers["root"])
    with session_context(manager, session):
        for name, server in here.items():
            await server._state_store.put(f"{session.key}:n", StateValue(value=name))
    assert await read(manager, session, here) == {name: name for name in here}
    assert await read(manager, session, there) == {name: name for name in there} | {"own": None}

    # One that is mounted before the others, under a name that none of them has, changes nothing for those with a name.
    later = tree(more="more")
    store_state_in_sessions(later["root"])
    assert await read(manager, session, later) == {name: name for name in here} | {"own": None, "more": None}


async def test_a_lifespan_may_call_a_server_before_the_first_message(manager, session):
    from fastmcp.server.server import StateValue

    here, there = tree(), tree()
    for servers in (here, there):
        low_level_server(servers["root"])
        async with Client(servers["nested"]) as client:  # which then looks for what it keeps
            await client.list_tools()
    with session_context(manager, session):
        for name, server in here.items():
            await server._state_store.put(f"{session.key}:n", StateValue(value=name))
    assert await read(manager, session, there) == {name: name for name in here} | {"own": None}


async def test_one_that_is_mounted_later_has_its_own_too(manager, session):
    from fastmcp.server.server import StateValue

    servers = {name: FastMCP() for name in ("root", "first", "second")}
    servers["root"].mount(servers["first"])
    servers["root"].mount(servers["second"])
    store_state_in_sessions(servers["root"])
    for place in ("root", "first", "second"):
        servers[f"late in {place}"] = FastMCP()
        servers[place].mount(servers[f"late in {place}"])
    store_state_in_sessions(servers["root"])
    with session_context(manager, session):
        for name, server in servers.items():
            await server._state_store.put(f"{session.key}:n", StateValue(value=name))
    assert await read(manager, session, servers) == {name: name for name in servers}


def test_a_name_cannot_be_taken_for_a_way():
    servers = [FastMCP(name) for name in ("root", "a", "b", "a#1/b", "a#2", "a/b")]
    root, a, b, *others = servers
    a.mount(b)
    for server in (a, *others):
        root.mount(server)
    store_state_in_sessions(root)
    assert len({server._state_storage._server for server in servers}) == len(servers)
