"""The clients: the official SDK's, and some that use `/mcp/send` and `/mcp/receive`; each follows a script of its own.

What a client does is drawn from its own random generator, so that a seed gives the same scripts again.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import anyio
import httpx2
import mcp_types as types
import orjson
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

from tests.chaos.check_answers import LONG_CALL
from tests.chaos.marks import Mark, new_name

CALL_LIMIT: Final = 75.0
"""Seconds after which a client gives a call up; longer than anything should take."""
ANSWER_LIMIT: Final = 25.0
"""Seconds within which whoever comes back for an answer gets one: the documented 10, and time for a busy machine."""
RETRY_SECONDS: Final = 0.3
ACCEPT: Final = {"Accept": "application/json, text/event-stream"}

_TRANSPORT_ERROR: Final = -32099
_RETRIED_STATUSES: Final = {409, 502, 503}


@dataclass
class World:
    """What all clients share."""

    url: str
    http: httpx2.AsyncHTTPTransport
    pause: float
    """Mean seconds between what one client does and what it does next."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the clients are to come to an end, and leave their sessions as they are."""
    notes: Counter[str] = field(default_factory=Counter[str])
    """What clients met, beside what the proxy sees."""
    complaints: list[str] = field(default_factory=list[str])
    """What clients were told that cannot be right."""

    async def rest(self, random: Random) -> None:
        """Wait between two actions."""
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0.2, 1.8) * self.pause):
                await self.stop.wait()


# ---------------------------------------------------------------- HTTP as an application would have it


class PatientTransport(httpx2.AsyncBaseTransport):
    """HTTP under the SDK's client, as an application sets it up that expects broken connections.

    What may be sent twice is sent again: replies, notifications, GET and DELETE. A call whose connection broke before
    any byte of the answer fails with an error, and the session goes on. Now and then a stream is cut, as networks do.
    """

    def __init__(self, world: World, random: Random, *, cuts: float) -> None:
        self._world = world
        self._random = random
        self._cuts = cuts
        self.session_id: str | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        message = orjson.loads(await request.aread()) if request.method == "POST" else {}
        if "method" in message and "id" in message:
            return await self._call(request, message["id"])
        return await self._insist(request)

    async def _call(self, request: httpx2.Request, request_id: Any) -> httpx2.Response:
        try:
            response = await self._world.http.handle_async_request(request)
        except httpx2.TransportError:
            self._world.notes["calls that failed before any byte"] += 1
            error = {"code": _TRANSPORT_ERROR, "message": "the connection broke"}
            return httpx2.Response(502, json={"jsonrpc": "2.0", "id": request_id, "error": error})
        self.session_id = response.headers.get("mcp-session-id", self.session_id)
        return self._fragile(response)

    async def _insist(self, request: httpx2.Request) -> httpx2.Response:
        async with asyncio.timeout(CALL_LIMIT):
            while True:
                try:
                    response = await self._world.http.handle_async_request(request)
                    if response.status_code not in _RETRIED_STATUSES:
                        return self._fragile(response)
                    await response.aclose()
                except httpx2.TransportError:
                    self._world.notes["requests sent again"] += 1
                await asyncio.sleep(RETRY_SECONDS)

    def _fragile(self, response: httpx2.Response) -> httpx2.Response:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            return response
        cut = self._random.randint(1, 6) if self._random.random() < self._cuts else None
        stream = _Fragile(response.stream, cut)
        return httpx2.Response(response.status_code, headers=response.headers, stream=stream)


class _Fragile(httpx2.AsyncByteStream):
    """A stream that just ends where the connection breaks, or is cut after some pieces."""

    def __init__(self, inner: Any, cut: int | None) -> None:
        self._inner = inner
        self._cut = cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        with suppress(httpx2.TransportError):
            async for piece in self._inner:
                yield piece
                count += 1
                if count == self._cut:
                    await self._inner.aclose()
                    return

    async def aclose(self) -> None:
        await self._inner.aclose()


# ---------------------------------------------------------------- the SDK's client


Act = Callable[["SDKClient", Client], Awaitable[None]]


class SDKClient:
    """One user of the official client: session after session, in each of them one thing after another."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._owner = ""

    async def run(self) -> None:
        while not self._world.stop.is_set():
            try:
                await self._session()
            except Exception as error:  # whatever broke the client: the next one begins
                self._world.notes[f"clients that failed: {_named(error)}"] += 1
                await self._world.rest(self._random)

    async def _session(self) -> None:
        self._owner = new_name(self._random)
        transport = PatientTransport(self._world, self._random, cuts=0.15)
        async with httpx2.AsyncClient(transport=transport, timeout=2 * CALL_LIMIT) as http:
            connection = streamable_http_client(self._world.url, http_client=http, terminate_on_close=False)
            async with Client(
                connection,
                mode="legacy",
                read_timeout_seconds=CALL_LIMIT,
                client_info=types.Implementation(name=f"~{self._owner}.00000000", version="1"),
                elicitation_callback=self._reply,
                logging_callback=_ignore,
            ) as client:
                for _ in range(self._random.randint(6, 30)):
                    await self._world.rest(self._random)
                    if self._world.stop.is_set():
                        return
                    await self._act(client)
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(self._random.randint(0, 2)):
                        tasks.create_task(self._act(client))
                    if self._random.random() < 0.5:
                        tasks.create_task(self._tolerant(self._call(client, "wait", seconds=2 * LONG_CALL)))
                    await self._world.rest(self._random)
                    headers = {"Mcp-Session-Id": transport.session_id or ""}
                    await http.delete(self._world.url, headers=headers)

    async def _reply(self, _: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"mark": params.message})

    async def _act(self, client: Client) -> None:
        weights = {
            self._echo: 5,
            self._remember: 5,
            self._report: 4,
            self._advance: 2,
            self._ask: 4,
            self._come_back: 3,
            self._announce: 3,
            self._wait: 2,
            self._cancel: 2,
            self._several: 2,
        }
        action = self._random.choices(list(weights), list(weights.values()))[0]
        try:
            await action(client)
        except MCPError as error:
            self._world.notes[f"calls that failed: {error.error.code} {error.error.message[:60]}"] += 1

    async def _call(self, client: Client, tool: str, **arguments: Any) -> None:
        mark = str(Mark(self._owner, new_name(self._random)))

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            if mark not in (message or ""):
                self._world.complaints.append(f"{mark} was told of {message}")

        result = await client.call_tool(
            tool, {"mark": mark, **arguments}, progress_callback=on_progress if tool == "advance" else None
        )
        told = result.content[0].text if isinstance(result.content[0], types.TextContent) else ""
        if result.is_error:
            self._world.notes[f"tools that failed: {told.partition('~')[0][:80]}"] += 1
        elif told != mark:
            self._world.complaints.append(f"{mark} was answered with {told}")

    async def _echo(self, client: Client) -> None:
        await self._call(client, "echo")

    async def _remember(self, client: Client) -> None:
        await self._call(client, "remember")

    async def _report(self, client: Client) -> None:
        await self._call(client, "report", steps=self._random.randint(1, 12), pause=self._random.uniform(0, 0.3))

    async def _advance(self, client: Client) -> None:
        await self._call(client, "advance", steps=self._random.randint(1, 12), pause=self._random.uniform(0, 0.3))

    async def _ask(self, client: Client) -> None:
        await self._call(client, "ask", times=self._random.randint(1, 3))

    async def _come_back(self, client: Client) -> None:
        await self._call(client, "come_back", steps=self._random.randint(2, 8), pause=self._random.uniform(0, 0.4))

    async def _announce(self, client: Client) -> None:
        await self._call(client, "announce", steps=self._random.randint(1, 5))

    async def _wait(self, client: Client) -> None:
        await self._call(client, "wait", seconds=self._random.uniform(0.3, 2.5))

    async def _cancel(self, client: Client) -> None:
        with anyio.move_on_after(self._random.uniform(0.1, 1.5)):
            await self._call(client, "wait", seconds=LONG_CALL)

    async def _several(self, client: Client) -> None:
        """Call three tools at once."""
        async with asyncio.TaskGroup() as tasks:
            actions = [self._echo, self._report, self._wait, self._announce, self._remember, self._remember]
            for action in self._random.sample(actions, 3):
                tasks.create_task(self._tolerant(action(client)))

    async def _tolerant(self, call: Awaitable[None]) -> None:
        with suppress(MCPError):
            await call


async def _ignore(_: Any) -> None:
    """Take a log message; the proxy has seen it."""


# ---------------------------------------------------------------- a client of plain requests


class PlainClient:
    """One user of `/mcp/session`, `/mcp/send`, `/mcp/receive` and `/mcp/abort`."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._open: set[str] = set()
        """The ids of requests that may have been accepted and are not answered yet."""

    async def run(self) -> None:
        while not self._world.stop.is_set():
            try:
                self._open.clear()
                async with httpx2.AsyncClient(
                    transport=SharedTransport(self._world.http), timeout=2 * CALL_LIMIT
                ) as http:
                    await self._session(http)
            except Exception as error:  # whatever broke the client: the next one begins
                self._world.notes[f"plain clients that failed: {_named(error)}"] += 1
                await self._world.rest(self._random)

    async def _session(self, http: httpx2.AsyncClient) -> None:
        owner = new_name(self._random)
        params = {"clientInfo": {"name": f"~{owner}.00000000", "version": "1"}, "capabilities": {"elicitation": {}}}
        created = await self._insist(http, "POST", "/session", params)
        http.headers["Mcp-Session-Id"] = created.headers["Mcp-Session-Id"]
        receiving = asyncio.create_task(self._receive(http))
        try:
            for _ in range(self._random.randint(6, 30)):
                await self._world.rest(self._random)
                if self._world.stop.is_set():
                    await self._settle()
                    return
                await self._act(http, owner)
            await self._insist(http, "DELETE", "")
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _settle(self) -> None:
        """Wait until all that was accepted is answered; where that does not happen, the audit finds it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_LIMIT):
                while self._open:
                    await asyncio.sleep(RETRY_SECONDS)

    async def _act(self, http: httpx2.AsyncClient, owner: str) -> None:
        tools: Mapping[str, dict[str, Any]] = {
            "echo": {},
            "report": {"steps": self._random.randint(1, 8), "pause": self._random.uniform(0, 0.3)},
            "ask": {"times": self._random.randint(1, 2)},
            "announce": {"steps": self._random.randint(1, 5)},
            "wait": {"seconds": self._random.uniform(0.2, 8)},
            "remember": {},
        }
        tool = self._random.choice(list(tools))
        call = new_name(self._random)
        arguments = {"mark": str(Mark(owner, call)), **tools[tool]}
        message = {
            "jsonrpc": "2.0",
            "id": call,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments},
        }
        self._open.add(call)
        try:
            response = await http.post(f"{self._world.url}/send", json=message)
            if response.status_code != 202:
                self._open.discard(call)
            if tool == "wait" and self._random.random() < 0.5:
                await self._world.rest(self._random)
                await http.post(f"{self._world.url}/abort", json={"requestId": call, "reason": "enough"})
        except httpx2.TransportError:
            self._open.discard(call)
            self._world.notes["plain requests that failed"] += 1

    async def _receive(self, http: httpx2.AsyncClient) -> None:
        """Read all there is, as polls and as streams in turn, and answer what is asked."""
        after: str | None = None
        while True:
            try:
                async with aclosing(self._events(http, after)) as events:
                    async for event_id, message in events:
                        after = event_id
                        self._open.discard(message.get("id", ""))
                        if message.get("method") == "elicitation/create":
                            await self._answer(http, message)
            except httpx2.TransportError:
                self._world.notes["requests sent again"] += 1
            await asyncio.sleep(RETRY_SECONDS)

    async def _events(self, http: httpx2.AsyncClient, after: str | None) -> AsyncGenerator[tuple[str, Any]]:
        url, query = f"{self._world.url}/receive", {"after": after} if after is not None else {}
        if self._random.random() < 0.3:
            async with http.stream("GET", url, params=query, headers={"Accept": "text/event-stream"}) as response:
                if response.status_code != 200:
                    return
                source = httpx2.EventSource(response)
                async for event in source:
                    yield event.id, orjson.loads(event.data)
                    if self._random.random() < 0.2:
                        return
            return
        response = await http.get(url, params={**query, "wait": "5"})
        if response.status_code == 200:
            for event in response.json()["events"]:
                yield event["id"], event["message"]

    async def _answer(self, http: httpx2.AsyncClient, question: dict[str, Any]) -> None:
        result = {"action": "accept", "content": {"mark": question["params"]["message"]}}
        await self._insist(http, "POST", "/send", {"jsonrpc": "2.0", "id": question["id"], "result": result})

    async def _insist(self, http: httpx2.AsyncClient, method: str, path: str, body: Any = None) -> httpx2.Response:
        """Send what may be sent twice until there is an answer."""
        async with asyncio.timeout(CALL_LIMIT):
            while True:
                try:
                    response = await http.request(method, self._world.url + path, json=body, headers=ACCEPT)
                    if response.status_code not in _RETRIED_STATUSES:
                        return response
                except httpx2.TransportError:
                    self._world.notes["requests sent again"] += 1
                await asyncio.sleep(RETRY_SECONDS)


class SharedTransport(httpx2.AsyncBaseTransport):
    """A transport that others use too, and that stays open."""

    def __init__(self, inner: httpx2.AsyncHTTPTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._inner.handle_async_request(request)


# ---------------------------------------------------------------- all of them


def _named(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__} {error}"[:100]


@asynccontextmanager
async def http_transport() -> AsyncGenerator[httpx2.AsyncHTTPTransport]:
    """Give the connections that all clients share."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx2.AsyncHTTPTransport(verify=False, limits=limits) as transport:
        yield transport


async def run_clients(world: World, random: Random, number: int) -> None:
    """Run so many clients, a fifth of them plain ones, until `world.stop` is set and they have come to an end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        async with asyncio.TaskGroup() as tasks:
            for index in range(number):
                kind = PlainClient if index % 5 == 4 else SDKClient
                tasks.create_task(kind(world, Random(random.getrandbits(64))).run())
