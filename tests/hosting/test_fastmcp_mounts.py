"""State of FastMCP servers that are mounted in each other: each server has its own, the same in every process."""

from __future__ import annotations

import pytest
from fastmcp import Client, FastMCP
from fastmcp.server.providers import AggregateProvider, FastMCPProvider
from fastmcp.server.server import StateValue
from key_value.aio.stores.memory import MemoryStore as KeyValueStore

from mcp_tornado.hosting.context import session_context
from mcp_tornado.hosting.fastmcp import low_level_server, store_state_in_sessions

pytestmark = pytest.mark.anyio


def make_servers(*, extra_server_name: str | None = None) -> dict[str, FastMCP]:
    """Make and mount servers, as each process does; the one called `root` contains all others.

    Args:
        extra_server_name: The name of a server that is mounted before the others; `None` mounts none.
    """
    servers = {
        "root": FastMCP(),
        "a": FastMCP("a"),
        "second a": FastMCP("a"),
        "nested": FastMCP("nested"),
        "unnamed": FastMCP(),
        "provider": FastMCP(),
        "aggregated provider": FastMCP(),
        "own store": FastMCP("own", session_state_store=KeyValueStore()),
    }
    if extra_server_name is not None:
        servers["extra"] = FastMCP(extra_server_name)
        servers["root"].mount(servers["extra"])
    servers["root"].mount(servers["a"])
    servers["root"].mount(servers["second a"], namespace="a", tool_names={"x": "y"})
    servers["a"].mount(servers["nested"], namespace="n")
    servers["root"].mount(servers["unnamed"])
    servers["root"].add_provider(servers["provider"], namespace="o")
    servers["root"].add_provider(AggregateProvider([FastMCPProvider(servers["aggregated provider"])]))
    servers["root"].mount(servers["own store"])
    servers["root"].mount(servers["a"], namespace="twice")
    return servers


async def put_own_names(manager, session, servers):
    """Let each server store its name under the same key."""
    with session_context(manager, session):
        for name, server in servers.items():
            await server._state_store.put(f"{session.key}:n", StateValue(value=name))


async def read_values(manager, session, servers):
    """Return what each server finds under that key."""
    values = {}
    with session_context(manager, session):
        for name, server in servers.items():
            found = await server._state_store.get(f"{session.key}:n")
            values[name] = found.value if found is not None else None
    return values


async def test_each_mounted_server_has_its_own_state_and_the_same_in_every_process(manager, session):
    first, second = make_servers(), make_servers()
    for servers in (first, second):
        store_state_in_sessions(servers["root"])
    await put_own_names(manager, session, first)
    expected = {name: name for name in first}
    assert await read_values(manager, session, first) == expected
    # The store that an author has passed is used, and it is not shared.
    assert await read_values(manager, session, second) == expected | {"own store": None}

    # A server with a new name that is mounted before the others does not change the position of any other one.
    changed = make_servers(extra_server_name="extra")
    store_state_in_sessions(changed["root"])
    assert await read_values(manager, session, changed) == expected | {"own store": None, "extra": None}


async def test_server_that_its_lifespan_calls_before_the_first_message_uses_stored_state(manager, session):
    first, second = make_servers(), make_servers()
    for servers in (first, second):
        low_level_server(servers["root"])
        async with Client(servers["nested"]) as client:
            await client.list_tools()  # the server reads its state for the client
    await put_own_names(manager, session, first)
    assert await read_values(manager, session, second) == {name: name for name in first} | {"own store": None}


async def test_server_that_is_mounted_later_has_its_own_state(manager, session):
    servers = {name: FastMCP() for name in ("root", "first", "second")}
    servers["root"].mount(servers["first"])
    servers["root"].mount(servers["second"])
    store_state_in_sessions(servers["root"])
    for parent in ("root", "first", "second"):
        servers[f"mounted later in {parent}"] = FastMCP()
        servers[parent].mount(servers[f"mounted later in {parent}"])
    store_state_in_sessions(servers["root"])
    await put_own_names(manager, session, servers)
    assert await read_values(manager, session, servers) == {name: name for name in servers}


def test_server_name_cannot_be_confused_with_the_path_of_another_server():
    servers = [FastMCP(name) for name in ("root", "a", "b", "a#1/b", "a#2", "a/b")]
    root, a, b, *others = servers
    a.mount(b)
    for server in (a, *others):
        root.mount(server)
    store_state_in_sessions(root)
    assert len({server._state_storage._server for server in servers}) == len(servers)
