"""A round-robin load balancer that records all that it forwards.

It does what such proxies do, and no more. It asks every process whether it is ready. If a process refuses a connection
or is draining, the next process gets the request. If the connection of a process breaks, the client's connection is
closed. A request that a process may have taken is never sent again.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Self

import h11
import orjson

from tests.chaos.records import Exchange, ForwardedEvent, Outcome

HOST: Final = "127.0.0.1"
REPLAY_HEADER: Final = "x-chaos-replay"
"""Header of a request that only reads again what was read before; see `Exchange.replay`."""

_PROBE_INTERVAL_SECONDS: Final = 0.2
_PROBE_TIMEOUT_SECONDS: Final = 1.0
_HOP_BY_HOP_HEADERS: Final = {b"connection", b"keep-alive", b"transfer-encoding"}


async def is_ready(port: int) -> bool:
    """Return whether a process reports that it is ready, within a second."""
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


class EventParser:
    """An incremental parser of server-sent events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[str | None, Any]]:
        """Return the id and the message of each event that the data completes; comments are ignored."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        events: list[tuple[str | None, Any]] = []
        for block in blocks:
            lines = [line.partition(b":") for line in block.split(b"\n") if not line.startswith(b":")]
            fields = {name: value.removeprefix(b" ") for name, _, value in lines}
            if fields:
                event_id = fields[b"id"].decode() if b"id" in fields else None
                events.append((event_id, orjson.loads(fields[b"data"]) if fields.get(b"data") else None))
        return events


class _PeerLost(Exception):
    """The peer of a connection closed it, or does not speak HTTP."""

    def __init__(self, connection: _Connection) -> None:
        super().__init__()
        self.connection = connection


class _Connection:
    """Our side of an HTTP connection. Its methods raise `_PeerLost` when the peer has closed it."""

    def __init__(self, role: type, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.http: Any = h11.Connection(role)
        self._reader = reader
        self._writer = writer
        self._reading: asyncio.Task[bytes] | None = None

    def reading(self) -> asyncio.Task[bytes]:
        """Return the task that reads the next data; its result is empty when the peer closes the connection."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._reader.read(65_536))
        return self._reading

    def is_closed_by_peer(self) -> bool:
        """Return whether the peer has closed the connection."""
        reading = self.reading()
        return reading.done() and (reading.exception() is not None or not reading.result())

    async def next_event(self) -> Any:
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                data = await self.reading()
                self._reading = None
                self.http.receive_data(data)
        except (OSError, h11.RemoteProtocolError) as error:
            raise _PeerLost(self) from error
        if isinstance(event, h11.ConnectionClosed):
            raise _PeerLost(self)
        return event

    async def read_body(self) -> bytes:
        body = b""
        while isinstance(event := await self.next_event(), h11.Data):
            body += bytes(event.data)
        return body

    async def send(self, *events: Any) -> None:
        self._writer.write(b"".join(self.http.send(event) or b"" for event in events))
        try:
            await self._writer.drain()
        except OSError as error:
            raise _PeerLost(self) from error

    def abort(self) -> None:
        """Reset the connection; the reading task then ends as if the peer had closed it."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection when all sent data is written."""
        try:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.gather(self._reading, return_exceptions=True)
        finally:
            self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class Proxy:
    """The load balancer, on a free port of its own.

    Args:
        ports: The ports of the processes. The index of a port is the number of its process in the records.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.records: list[Exchange] = []
        self._ports = ports
        self._ready = [True for _ in ports]
        self._turns = itertools.count()
        self._numbers = itertools.count(1)
        self._began = time.monotonic()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._clients: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._accept, HOST, 0, backlog=1000)
        self.url = f"http://{HOST}:{self._listening.sockets[0].getsockname()[1]}/mcp"
        for process in range(len(self._ports)):
            self._tasks.add(asyncio.create_task(self._probe(process)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listening.wait_closed()

    def now(self) -> float:
        """Return the seconds since the proxy was created."""
        return time.monotonic() - self._began

    def break_connections(self) -> None:
        """Reset all connections of clients, as a network failure does; clients can connect again at once."""
        for client in self._clients:
            client.abort()

    async def _probe(self, process: int) -> None:
        while True:
            self._ready[process] = await is_ready(self._ports[process])
            await asyncio.sleep(_PROBE_INTERVAL_SECONDS)

    def _candidates(self) -> list[int]:
        """Return the ready processes, the next one in turn first; all processes if none is ready."""
        everything = range(len(self._ports))
        ready = [process for process in everything if self._ready[process]] or list(everything)
        turn = next(self._turns) % len(ready)
        return ready[turn:] + ready[:turn]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(_Connection(h11.SERVER, reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: _Connection) -> None:
        self._clients.add(client)
        try:
            while await self._serve_one(client):
                client.http.start_next_cycle()
        finally:
            self._clients.discard(client)
            await client.close()

    async def _serve_one(self, client: _Connection) -> bool:
        """Serve the next request of a client and return whether its connection stays open."""
        try:
            head = await client.next_event()
            body = await client.read_body()
        except _PeerLost:
            return False
        exchange = self._record(head, body)
        forwarding = asyncio.create_task(self._forward(client, head, body, exchange))
        try:
            await asyncio.wait({forwarding, client.reading()}, return_when=asyncio.FIRST_COMPLETED)
            if not forwarding.done() and client.is_closed_by_peer():
                raise _PeerLost(client)
            await forwarding
        except _PeerLost as lost:
            exchange.outcome = Outcome.CLIENT_CLOSED if lost.connection is client else Outcome.BROKEN
            return False
        finally:
            forwarding.cancel()
            await asyncio.gather(forwarding, return_exceptions=True)
            exchange.ended = self.now()
        return client.http.our_state is h11.DONE and client.http.their_state is h11.DONE

    def _record(self, head: Any, body: bytes) -> Exchange:
        headers = {name.decode(): value.decode() for name, value in head.headers}
        path, _, query = head.target.decode().partition("?")
        parameters = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        exchange = Exchange(
            number=next(self._numbers),
            at=self.now(),
            method=head.method.decode(),
            path=path,
            session=headers.get("mcp-session-id"),
            after=headers.get("last-event-id") or parameters.get("after") or None,
            message=orjson.loads(body) if body else None,
            replay=REPLAY_HEADER in headers,
        )
        self.records.append(exchange)
        return exchange

    async def _forward(self, client: _Connection, head: Any, body: bytes, exchange: Exchange) -> None:
        """Send a request to the next process that takes it, and its answer to the client.

        Raises:
            _PeerLost: The process or the client closed its connection.
        """
        refusal: tuple[Any, bytes] | None = None
        for process in self._candidates():
            try:
                reader, writer = await asyncio.open_connection(HOST, self._ports[process])
            except OSError:
                exchange.skipped_processes.append(process)
                continue
            upstream = _Connection(h11.CLIENT, reader, writer)
            try:
                answer = await self._ask(upstream, head, body, exchange, process)
                if answer.status_code == 503:
                    content = await upstream.read_body()
                    if b"SERVER_DRAINING" in content:
                        exchange.skipped_processes.append(process)
                        self._ready[process] = False
                        refusal = answer, content
                        continue
                    await self._answer(client, answer, content, exchange)
                    return
                await self._relay(upstream, client, answer, exchange)
                return
            finally:
                await upstream.close()
        exchange.process = None
        exchange.outcome = Outcome.REFUSED
        answer, content = refusal or (h11.Response(status_code=502, headers=[("Content-Length", "0")]), b"")
        await self._answer(client, answer, content, exchange)

    async def _ask(self, upstream: _Connection, head: Any, body: bytes, exchange: Exchange, process: int) -> Any:
        exchange.process = process
        headers = [pair for pair in head.headers if pair[0] not in _HOP_BY_HOP_HEADERS]
        request = h11.Request(method=head.method, target=head.target, headers=[*headers, ("Connection", "close")])
        await upstream.send(request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage())
        return await upstream.next_event()

    def _note_head(self, answer: Any, exchange: Exchange) -> Any:
        headers = {name: value.decode() for name, value in answer.headers}
        exchange.status = answer.status_code
        exchange.began = self.now()
        exchange.new_session = headers.get(b"mcp-session-id")
        exchange.streamed = headers.get(b"content-type", "").startswith("text/event-stream")
        kept = [pair for pair in answer.headers if pair[0] not in _HOP_BY_HOP_HEADERS]
        return h11.Response(status_code=answer.status_code, headers=kept, reason=answer.reason)

    def _note_body(self, content: bytes, exchange: Exchange) -> None:
        try:
            exchange.body = orjson.loads(content) if content else None
        except orjson.JSONDecodeError:
            exchange.body = content.decode(errors="replace")
        if exchange.path.endswith("/receive") and exchange.status == 200:
            exchange.events = [
                ForwardedEvent(self.now(), event["id"], event["message"]) for event in exchange.body["events"]
            ]

    async def _answer(self, client: _Connection, answer: Any, content: bytes, exchange: Exchange) -> None:
        head = self._note_head(answer, exchange)
        self._note_body(content, exchange)
        if exchange.outcome is Outcome.OPEN:
            exchange.outcome = Outcome.COMPLETE
        await client.send(head, *([h11.Data(data=content)] if content else []), h11.EndOfMessage())

    async def _relay(self, upstream: _Connection, client: _Connection, answer: Any, exchange: Exchange) -> None:
        head = self._note_head(answer, exchange)
        if not exchange.streamed:
            content = await upstream.read_body()
            self._note_body(content, exchange)
            exchange.outcome = Outcome.COMPLETE
            await client.send(head, *([h11.Data(data=content)] if content else []), h11.EndOfMessage())
            return
        parser = EventParser()
        await client.send(head)
        while isinstance(event := await upstream.next_event(), h11.Data):
            data = bytes(event.data)
            exchange.events.extend(ForwardedEvent(self.now(), *parsed) for parsed in parser.feed(data))
            await client.send(h11.Data(data=data))
        exchange.outcome = Outcome.COMPLETE
        await client.send(h11.EndOfMessage())
