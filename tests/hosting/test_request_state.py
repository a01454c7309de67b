"""`requestState`: with which keys it is sealed, and by whom it is opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import mcp_types as types
import pytest
from mcp.server.lowlevel.server import Server
from mcp.server.request_state import (
    AESGCMRequestStateCodec,
    InvalidRequestState,
    RequestStateBoundary,
    RequestStateSecurity,
)
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import InboundModernRoute
from starlette.requests import Request as StarletteRequest

from mcp_tornado.hosting.request_state import KEPT_KEY, SharedKeys, shared_request_state
from mcp_tornado.jsonrpc import Request
from mcp_tornado.kernel.stateless import run_classified
from mcp_tornado.sessions import Event, EventLog
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.stores.plugins import open_store
from mcp_tornado.testing import FakeClock

pytestmark = pytest.mark.anyio

KEYS: Final = ["one" * 16, "two" * 16, "three" * 16]
ROUTE: Final = InboundModernRoute("2026-07-28", {"name": "test", "version": "1"}, {})


async def ask_once(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
    """Ask for nothing but a second round; then say what state came back."""
    if params.request_state is None:
        return types.InputRequiredResult(request_state="as it was")
    return types.CallToolResult(content=[types.TextContent(type="text", text=params.request_state)])


def server_with(security: RequestStateSecurity | None = None, audience: str | None = "service") -> Server[Any]:
    """Make a server with a boundary, as the SDK's own servers and those of FastMCP have it."""
    server: Server[Any] = Server("asker", on_call_tool=ask_once)
    boundary = RequestStateBoundary(security or RequestStateSecurity.ephemeral(), default_audience=audience)
    server.middleware.append(boundary)
    return server


async def call(server: Server[Any], **params: Any) -> dict[str, Any]:
    request = Request(1, "tools/call", {"name": "ask", "arguments": {}, "_meta": META, **params})
    http_request = StarletteRequest({"type": "http", "headers": []})
    return await run_classified(server, {}, request, ROUTE, http_request, None)


META: Final = {
    "io.modelcontextprotocol/protocolVersion": ROUTE.protocol_version,
    "io.modelcontextprotocol/clientInfo": ROUTE.client_info,
    "io.modelcontextprotocol/clientCapabilities": ROUTE.client_capabilities,
}


async def sealed_by(server: Server[Any]) -> str:
    """Return the state that a first round gives to the client."""
    return (await call(server))["requestState"]


async def opens(server: Server[Any], state: str) -> bool:
    """Say whether a second round with a state is understood."""
    try:
        result = await call(server, requestState=state)
    except MCPError as error:
        if error.error.message != "Invalid or expired requestState":
            raise
        return False
    return result["content"][0]["text"] == "as it was"


@asynccontextmanager
async def processes(
    *servers: Server[Any], keys: Sequence[str] = (), log: EventLog | None = None
) -> AsyncGenerator[None]:
    """Host servers, each as a process of its own would, on a common store."""
    async with AsyncExitStack() as stack:
        if log is None:
            log = await stack.enter_async_context(MemoryStore(FakeClock()))
        for number, server in enumerate(servers):
            await stack.enter_async_context(shared_request_state(server, log, f"s{number}", keys))
        yield


# ---------------------------------------------------------------- whose keys


async def test_without_us_no_process_opens_what_another_has_sealed() -> None:
    """The control."""
    assert not await opens(server_with(), await sealed_by(server_with()))


@pytest.mark.parametrize("keys", [[], KEYS])
async def test_a_process_opens_what_another_has_sealed(keys: list[str]) -> None:
    first, second = server_with(), server_with()
    async with processes(first, second, keys=keys):
        assert await opens(second, await sealed_by(first))
        assert await opens(first, await sealed_by(second))


async def test_nobody_else_opens_it() -> None:
    server, elsewhere = server_with(), server_with()
    async with processes(server), processes(elsewhere):
        state = await sealed_by(server)
        assert not await opens(elsewhere, state)
        assert not await opens(server, state[:-4] + "AAAA")
        assert not await opens(server, "as it was")


async def test_keys_are_exchanged_one_after_the_other() -> None:
    servers = [server_with() for _ in range(3)]
    before, during, after = servers
    async with processes(before, keys=KEYS[:1]), processes(during, keys=KEYS[1::-1]), processes(after, keys=KEYS[1:]):
        assert await opens(during, await sealed_by(before))
        assert await opens(after, await sealed_by(during))
        assert not await opens(after, await sealed_by(before))


async def test_given_keys_are_not_put_into_the_store() -> None:
    async with MemoryStore(FakeClock()) as log, processes(server_with(), keys=KEYS, log=log):
        assert await log.read(KEPT_KEY, None) == []


async def test_keys_of_the_servers_own_still_open() -> None:
    """They may be those of processes that are hosted in another way, or were until now."""
    elsewhere = server_with(RequestStateSecurity(keys=[KEYS[2]]))
    server = server_with(RequestStateSecurity(keys=KEYS[1:]))
    async with processes(server):
        assert await opens(server, await sealed_by(elsewhere))


async def test_afterwards_the_server_is_as_it_was() -> None:
    server = server_with(RequestStateSecurity(keys=KEYS))
    middleware = list(server.middleware)
    before = await sealed_by(server)
    async with processes(server):
        meanwhile = await sealed_by(server)
    assert await opens(server, before)
    assert not await opens(server, meanwhile)
    assert server.middleware == middleware


# ---------------------------------------------------------------- what stays as the user wrote it


class Plain:
    """A codec that seals nothing."""

    def seal(self, payload: bytes) -> str:
        return payload.hex()

    def unseal(self, token: str) -> bytes:
        try:
            return bytes.fromhex(token)
        except ValueError as error:
            raise InvalidRequestState("no hexadecimal") from error


class OwnCodec(AESGCMRequestStateCodec):
    """What differs from the SDK's in a way that we do not know."""


class OwnBoundary(RequestStateBoundary):
    """The same, of boundaries."""


async def test_a_codec_of_the_users_is_left_alone() -> None:
    for codec in (Plain(), OwnCodec(KEYS)):
        server = server_with(RequestStateSecurity(codec=codec))
        middleware = list(server.middleware)
        async with MemoryStore(FakeClock()) as log, processes(server, log=log):
            assert server.middleware == middleware
            assert codec.unseal(await sealed_by(server))
            assert await log.read(KEPT_KEY, None) == []


async def test_a_boundary_of_the_users_and_a_server_without_one_are_left_alone() -> None:
    own = OwnBoundary(RequestStateSecurity(keys=KEYS), default_audience=None)
    server: Server[Any] = Server("asker", on_call_tool=ask_once)
    async with processes(server):
        assert await sealed_by(server) == "as it was"
    server.middleware.append(own)
    async with processes(server):
        assert server.middleware[-1] is own


async def test_a_state_is_still_for_one_service_only() -> None:
    named = server_with(RequestStateSecurity.ephemeral(audience="the service"))
    by_default, same = server_with(audience="the service"), server_with(audience="the service")
    other, nameless = server_with(audience="another"), server_with(audience=None)
    async with processes(named, by_default, same, other, nameless):
        state = await sealed_by(by_default)
        assert await opens(same, state)
        assert await opens(named, state)
        assert not await opens(other, state)
        assert not await opens(nameless, state)


async def test_a_state_is_still_for_one_principal_only() -> None:
    def bound_to(name: str) -> Server[Any]:
        return server_with(RequestStateSecurity(keys=KEYS, bind_principal=lambda _: name))

    ada, ada_elsewhere, bob = bound_to("ada"), bound_to("ada"), bound_to("bob")
    async with processes(ada, ada_elsewhere, bob):
        state = await sealed_by(ada)
        assert await opens(ada_elsewhere, state)
        assert not await opens(bob, state)


async def test_a_state_is_good_for_as_long_as_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (server_with(RequestStateSecurity.ephemeral(ttl=seconds)) for seconds in (10, 1000))
    async with processes(short, long):
        states = [await sealed_by(short), await sealed_by(long)]
        clock = FakeClock()
        clock.advance(100)
        monkeypatch.setattr("mcp.server.request_state.time.time", lambda: clock().timestamp())
        assert [await opens(short, state) for state in states] == [False, True]


# ---------------------------------------------------------------- the key in the store


async def started(log: EventLog, process: str) -> SharedKeys:
    keys = SharedKeys(log, process, ())
    await keys.start()
    return keys


def agree(*all_keys: SharedKeys) -> bool:
    """Say whether each of them opens what each of them seals."""
    try:
        return all(opener.unseal(sealer.seal(b"x")) == b"x" for sealer in all_keys for opener in all_keys)
    except InvalidRequestState:
        return False


async def test_those_who_start_at_once_agree(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    async with AsyncExitStack() as stack:
        stores: list[Any] = [await stack.enter_async_context(open_store(url, {}, FakeClock())) for _ in range(8)]
        all_keys = await asyncio.gather(*(started(log, f"s{number}") for number, log in enumerate(stores)))
        assert agree(*all_keys)
        assert len(await stores[0].read(KEPT_KEY, None)) == 1


async def test_a_process_that_died_while_it_made_the_key_keeps_nobody_from_it() -> None:
    clock = FakeClock()
    async with MemoryStore(clock) as log:
        await _die_while_making(log)
        waiting = asyncio.create_task(started(log, "second"))
        await asyncio.sleep(0)
        assert not waiting.done()
        clock.advance(60)
        assert agree(await waiting, await started(log, "third"))


async def test_who_looked_before_another_made_the_key_makes_none() -> None:
    async with MemoryStore(FakeClock()) as log:
        others: list[SharedKeys] = []

        class Overtaken(Passing):
            """Has another process make the key between a look and what follows."""

            async def claim(self, *arguments: Any) -> bool:
                others.append(await started(log, "faster"))
                return await log.claim(*arguments)

        assert agree(await started(Overtaken(log), "slower"), *others)


class Passing(EventLog):
    """A log that does what another does."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def append(self, *arguments: Any, **more: Any) -> str:
        return await self._log.append(*arguments, **more)

    async def read(self, *arguments: Any, **more: Any) -> list[Event]:
        return await self._log.read(*arguments, **more)

    async def wait(self, *arguments: Any) -> bool:
        return await self._log.wait(*arguments)

    async def claim(self, *arguments: Any) -> bool:
        return await self._log.claim(*arguments)

    async def release(self, *arguments: Any) -> None:
        await self._log.release(*arguments)


async def _die_while_making(log: EventLog) -> None:
    class Death(Exception):
        pass

    class Deadly(Passing):
        """Ends whoever would store something."""

        async def append(self, *_: Any, **__: Any) -> str:
            raise Death

    with pytest.raises(Death):
        await started(Deadly(log), "first")


async def test_a_key_that_the_store_lost_is_put_there_again() -> None:
    async with MemoryStore(FakeClock()) as store:
        first, second = await started(store, "first"), await started(store, "second")
        state = first.seal(b"x")
        await store.delete(KEPT_KEY)
        await second.refresh()
        await first.refresh()
        late = await started(store, "late")
        assert agree(first, second, late)
        assert late.unseal(state) == b"x"


async def test_those_who_have_another_key_than_the_store_take_that_one_and_open_what_they_sealed_before() -> None:
    async with MemoryStore(FakeClock()) as store:
        first = await started(store, "first")
        states = [first.seal(b"x")]
        await store.delete(KEPT_KEY)
        second = await started(store, "second")
        states.append(second.seal(b"x"))
        assert not agree(first, second)
        await second.refresh()
        await first.refresh()
        assert first.unseal(second.seal(b"y")) == second.unseal(first.seal(b"y")) == b"y"
        assert [first.unseal(state) for state in states] == [b"x", b"x"]


@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
async def test_the_key_stays_in_the_store_as_long_as_a_process_looks(scheme: str, tmp_path: Path) -> None:
    clock = FakeClock()
    url = "memory://" if scheme == "memory" else f"sqlite:///{tmp_path / 'sessions.db'}"
    async with open_store(url, {"events": {"ttl_seconds": 60}}, clock) as store:
        assert isinstance(store, EventLog)
        first = await started(store, "first")
        for _ in range(4):
            clock.advance(23 * 3600)
            await first.refresh()
            await store.sweep(clock(), 1000)
            assert await store.read(KEPT_KEY, None)
        assert agree(first, await started(store, "second"))
