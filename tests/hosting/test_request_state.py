"""`requestState`: which keys seal it, and which processes open it."""

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

TIMEOUT_SECONDS: Final = 30
KEYS: Final = ["one" * 16, "two" * 16, "three" * 16]
STATE: Final = "the state of the tool"
ROUTE: Final = InboundModernRoute("2026-07-28", {"name": "test", "version": "1"}, {})
META: Final = {
    "io.modelcontextprotocol/protocolVersion": ROUTE.protocol_version,
    "io.modelcontextprotocol/clientInfo": ROUTE.client_info,
    "io.modelcontextprotocol/clientCapabilities": ROUTE.client_capabilities,
}


async def require_second_round(
    ctx: Any, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    """Require a second round without any input; in that round return the state that has come back."""
    if params.request_state is None:
        return types.InputRequiredResult(request_state=STATE)
    return types.CallToolResult(content=[types.TextContent(type="text", text=params.request_state)])


def make_server(security: RequestStateSecurity | None = None, audience: str | None = "service") -> Server[Any]:
    """Make a server with a boundary, as the servers of the SDK and of FastMCP have it."""
    server: Server[Any] = Server("two rounds", on_call_tool=require_second_round)
    boundary = RequestStateBoundary(security or RequestStateSecurity.ephemeral(), default_audience=audience)
    server.middleware.append(boundary)
    return server


async def call(server: Server[Any], **params: Any) -> dict[str, Any]:
    request = Request(1, "tools/call", {"name": "two rounds", "arguments": {}, "_meta": META, **params})
    http_request = StarletteRequest({"type": "http", "headers": []})
    return await run_classified(server, {}, request, ROUTE, http_request, None)


async def seal(server: Server[Any]) -> str:
    """Return the sealed state that the client gets in the first round."""
    return (await call(server))["requestState"]


async def can_open(server: Server[Any], sealed: str) -> bool:
    """Return whether the server accepts a sealed state in the second round."""
    try:
        result = await call(server, requestState=sealed)
    except MCPError as error:
        if error.error.message != "Invalid or expired requestState":
            raise
        return False
    return result["content"][0]["text"] == STATE


@asynccontextmanager
async def hosted(*servers: Server[Any], keys: Sequence[str] = (), log: EventLog | None = None) -> AsyncGenerator[None]:
    """Host each server as if it ran in a process of its own. All of them share a store."""
    async with AsyncExitStack() as stack:
        if log is None:
            log = await stack.enter_async_context(MemoryStore(FakeClock()))
        for number, server in enumerate(servers):
            await stack.enter_async_context(shared_request_state(server, log, f"s{number}", keys))
        yield


# ---------------------------------------------------------------- which process opens a state


async def test_state_cannot_be_opened_by_another_process_if_the_servers_are_not_hosted() -> None:
    assert not await can_open(make_server(), await seal(make_server()))


@pytest.mark.parametrize("keys", [[], KEYS])
async def test_state_can_be_opened_by_another_process(keys: list[str]) -> None:
    first, second = make_server(), make_server()
    async with hosted(first, second, keys=keys):
        assert await can_open(second, await seal(first))
        assert await can_open(first, await seal(second))


async def test_state_cannot_be_opened_with_another_store_or_after_a_change() -> None:
    server, server_on_other_store = make_server(), make_server()
    async with hosted(server), hosted(server_on_other_store):
        sealed = await seal(server)
        assert not await can_open(server_on_other_store, sealed)
        assert not await can_open(server, sealed[:-4] + "AAAA")
        assert not await can_open(server, STATE)


async def test_configured_keys_can_be_rotated() -> None:
    before, during, after = (make_server() for _ in range(3))
    async with hosted(before, keys=KEYS[:1]), hosted(during, keys=KEYS[1::-1]), hosted(after, keys=KEYS[1:]):
        assert await can_open(during, await seal(before))
        assert await can_open(after, await seal(during))
        assert not await can_open(after, await seal(before))


async def test_configured_keys_are_not_stored() -> None:
    async with MemoryStore(FakeClock()) as log, hosted(make_server(), keys=KEYS, log=log):
        assert await log.read(KEPT_KEY, None) == []


async def test_state_sealed_with_the_servers_own_keys_can_still_be_opened() -> None:
    """Another process with the same keys may not be hosted by mcp-tornado, or not yet."""
    not_hosted = make_server(RequestStateSecurity(keys=[KEYS[2]]))
    server = make_server(RequestStateSecurity(keys=KEYS[1:]))
    async with hosted(server):
        assert await can_open(server, await seal(not_hosted))


async def test_sealing_of_the_server_is_restored_at_the_end() -> None:
    server = make_server(RequestStateSecurity(keys=KEYS))
    middleware = list(server.middleware)
    sealed_before = await seal(server)
    async with hosted(server):
        sealed_while_hosted = await seal(server)
    assert await can_open(server, sealed_before)
    assert not await can_open(server, sealed_while_hosted)
    assert server.middleware == middleware


# ---------------------------------------------------------------- what stays as the user has configured it


class PlainCodec:
    """A codec that seals nothing."""

    def seal(self, payload: bytes) -> str:
        return payload.hex()

    def unseal(self, token: str) -> bytes:
        try:
            return bytes.fromhex(token)
        except ValueError as error:
            raise InvalidRequestState("not hexadecimal") from error


class UserCodec(AESGCMRequestStateCodec):
    """A codec of the user that may differ from the SDK's in any way."""


class UserBoundary(RequestStateBoundary):
    """A boundary of the user that may differ from the SDK's in any way."""


async def test_codec_of_the_user_is_not_replaced() -> None:
    for codec in (PlainCodec(), UserCodec(KEYS)):
        server = make_server(RequestStateSecurity(codec=codec))
        middleware = list(server.middleware)
        async with MemoryStore(FakeClock()) as log, hosted(server, log=log):
            assert server.middleware == middleware
            assert codec.unseal(await seal(server))
            assert await log.read(KEPT_KEY, None) == []


async def test_boundary_of_the_user_is_not_replaced_and_none_is_added() -> None:
    boundary = UserBoundary(RequestStateSecurity(keys=KEYS), default_audience=None)
    server: Server[Any] = Server("two rounds", on_call_tool=require_second_round)
    async with hosted(server):
        assert await seal(server) == STATE
    server.middleware.append(boundary)
    async with hosted(server):
        assert server.middleware[-1] is boundary


async def test_state_can_be_opened_by_its_audience_only() -> None:
    with_audience = make_server(RequestStateSecurity.ephemeral(audience="the service"))
    by_default, same_default = make_server(audience="the service"), make_server(audience="the service")
    other_default, without_audience = make_server(audience="another"), make_server(audience=None)
    async with hosted(with_audience, by_default, same_default, other_default, without_audience):
        sealed = await seal(by_default)
        assert await can_open(same_default, sealed)
        assert await can_open(with_audience, sealed)
        assert not await can_open(other_default, sealed)
        assert not await can_open(without_audience, sealed)


async def test_state_can_be_opened_for_its_principal_only() -> None:
    def make_server_for(principal: str) -> Server[Any]:
        return make_server(RequestStateSecurity(keys=KEYS, bind_principal=lambda _: principal))

    ada, ada_again, bob = make_server_for("ada"), make_server_for("ada"), make_server_for("bob")
    async with hosted(ada, ada_again, bob):
        sealed = await seal(ada)
        assert await can_open(ada_again, sealed)
        assert not await can_open(bob, sealed)


async def test_state_expires_after_the_lifetime_that_the_server_has_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (make_server(RequestStateSecurity.ephemeral(ttl=seconds)) for seconds in (10, 1000))
    async with hosted(short, long):
        sealed = [await seal(short), await seal(long)]
        clock = FakeClock()
        clock.advance(100)
        monkeypatch.setattr("mcp.server.request_state.time.time", lambda: clock().timestamp())
        assert [await can_open(short, each) for each in sealed] == [False, True]


# ---------------------------------------------------------------- the stored key


async def start_keys(log: EventLog, process: str) -> SharedKeys:
    keys = SharedKeys(log, process, ())
    await keys.start()
    return keys


def have_same_key(*all_keys: SharedKeys) -> bool:
    """Return whether each of them opens what each of them seals."""
    try:
        return all(opener.unseal(sealer.seal(b"x")) == b"x" for sealer in all_keys for opener in all_keys)
    except InvalidRequestState:
        return False


class ForwardingLog(EventLog):
    """A log that forwards every operation to another log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def append(self, *arguments: Any, **options: Any) -> str:
        return await self._log.append(*arguments, **options)

    async def read(self, *arguments: Any, **options: Any) -> list[Event]:
        return await self._log.read(*arguments, **options)

    async def wait(self, *arguments: Any) -> bool:
        return await self._log.wait(*arguments)

    async def claim(self, *arguments: Any) -> bool:
        return await self._log.claim(*arguments)

    async def release(self, *arguments: Any) -> None:
        await self._log.release(*arguments)


class ProcessDied(Exception):
    """The process ends without releasing its lease."""


class FatalLog(ForwardingLog):
    """The log of a process that dies when it writes to it."""

    async def append(self, *_: Any, **__: Any) -> str:
        raise ProcessDied


class ObservedLog(ForwardingLog):
    """A log that sets an event when a claim was refused."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log)
        self.claim_refused = asyncio.Event()

    async def claim(self, *arguments: Any) -> bool:
        is_claimed = await super().claim(*arguments)
        if not is_claimed:
            self.claim_refused.set()
        return is_claimed


async def test_processes_that_start_at_the_same_time_agree_on_a_key(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    async with AsyncExitStack() as stack:
        stores: list[Any] = [await stack.enter_async_context(open_store(url, {}, FakeClock())) for _ in range(8)]
        all_keys = await asyncio.gather(*(start_keys(log, f"s{number}") for number, log in enumerate(stores)))
        assert have_same_key(*all_keys)
        assert len(await stores[0].read(KEPT_KEY, None)) == 1


async def test_process_that_dies_while_it_generates_the_key_does_not_block_others_for_ever() -> None:
    clock = FakeClock()
    async with MemoryStore(clock) as store:
        with pytest.raises(ProcessDied):
            await start_keys(FatalLog(store), "first")
        log = ObservedLog(store)
        second = asyncio.create_task(start_keys(log, "second"))
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await log.claim_refused.wait()
        except TimeoutError:
            pytest.fail("the second process was not refused the lease of the first one")
        assert not second.done()
        clock.advance(60)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert have_same_key(await second, await start_keys(store, "third"))


async def test_process_that_finds_no_key_before_another_stores_one_generates_none() -> None:
    async with MemoryStore(FakeClock()) as store:
        faster: list[SharedKeys] = []

        class OvertakenLog(ForwardingLog):
            """Lets another process generate the key between the first read and the claim."""

            async def claim(self, *arguments: Any) -> bool:
                faster.append(await start_keys(store, "faster"))
                return await super().claim(*arguments)

        assert have_same_key(await start_keys(OvertakenLog(store), "slower"), *faster)


async def test_key_that_the_store_has_lost_is_stored_again() -> None:
    async with MemoryStore(FakeClock()) as store:
        first, second = await start_keys(store, "first"), await start_keys(store, "second")
        sealed = first.seal(b"x")
        await store.delete(KEPT_KEY)
        await second.refresh()
        await first.refresh()
        late = await start_keys(store, "late")
        assert have_same_key(first, second, late)
        assert late.unseal(sealed) == b"x"


async def test_process_whose_key_differs_from_the_stored_one_uses_that_and_still_opens_states_of_its_own() -> None:
    async with MemoryStore(FakeClock()) as store:
        first = await start_keys(store, "first")
        sealed = [first.seal(b"x")]
        await store.delete(KEPT_KEY)
        second = await start_keys(store, "second")
        sealed.append(second.seal(b"x"))
        assert not have_same_key(first, second)
        await second.refresh()
        await first.refresh()
        assert first.unseal(second.seal(b"y")) == second.unseal(first.seal(b"y")) == b"y"
        assert [first.unseal(each) for each in sealed] == [b"x", b"x"]


@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
async def test_stored_key_is_not_removed_while_a_process_refreshes_it(scheme: str, tmp_path: Path) -> None:
    clock = FakeClock()
    url = "memory://" if scheme == "memory" else f"sqlite:///{tmp_path / 'sessions.db'}"
    async with open_store(url, {"events": {"ttl_seconds": 60}}, clock) as store:
        assert isinstance(store, EventLog)
        first = await start_keys(store, "first")
        for _ in range(4):
            clock.advance(23 * 3600)
            await first.refresh()
            await store.sweep(clock(), 1000)
            assert await store.read(KEPT_KEY, None)
        assert have_same_key(first, await start_keys(store, "second"))
