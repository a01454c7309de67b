"""Round trips of each operation through a proxy, and what is sent again when a connection breaks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from datetime import timedelta

import psutil
import pytest
from mcp_tornado_redis import redis_store, scripts
from mcp_tornado_redis.scripts import Script

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

KEY, OTHER = "key-0001", "key-0002"


class Proxy:
    """A proxy between a store and its server that counts exchanges, and can lose them.

    An exchange is one request and its answer. The exchanges that set up a connection do not count and are not lost, nor
    are those of a connection that subscribes to a channel.
    """

    def __init__(self, port):
        self._server_port = port
        self._tasks = set()
        self._is_subscribed = {}
        """For the writer of each connection from the store, whether the connection subscribes to a channel."""
        self.requests = 0
        self.losses = []
        """For each of the next exchanges, the part that is lost with the connection: "request", "answer" or `None`."""

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def break_all(self, *, with_reset):
        """Break all connections that do not subscribe: by closing them, or by a TCP reset as from a lost host."""
        for client in [client for client, is_subscribed in self._is_subscribed.items() if not is_subscribed]:
            if with_reset:
                linger = b"\1\0\0\0\0\0\0\0"
                client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.transport.abort()

    async def _accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._is_subscribed[writer] = False
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        loses_answers = asyncio.Event()
        answers = asyncio.create_task(self._forward_answers(server_reader, writer, loses_answers))
        try:
            await self._forward_requests(reader, writer, server_writer, loses_answers)
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            for closing in (writer, server_writer):
                closing.close()
            for closing in (writer, server_writer):
                with contextlib.suppress(OSError):
                    await closing.wait_closed()
            del self._is_subscribed[writer]
            self._tasks.discard(asyncio.current_task())

    async def _forward_requests(self, reader, writer, server_writer, loses_answers):
        with contextlib.suppress(OSError):
            while data := await reader.read(1_000_000):
                self._is_subscribed[writer] |= b"SUBSCRIBE" in data
                if not self._is_subscribed[writer] and b"SETINFO" not in data:
                    self.requests += 1
                    lost = self.losses.pop(0) if self.losses else None
                    if lost == "request":
                        return
                    if lost == "answer":
                        loses_answers.set()
                server_writer.write(data)

    async def _forward_answers(self, server_reader, writer, loses_answers):
        while data := await server_reader.read(1_000_000):
            if loses_answers.is_set():
                break
            writer.write(data)
        writer.close()


@pytest.fixture
async def proxy(server, anyio_backend):
    async with Proxy(server.port) as opened:
        yield opened


@pytest.fixture
async def store(proxy, client, clock, make_session):
    """Give a store behind the proxy, with a session that has an event; the server has all scripts."""
    for script in vars(scripts).values():
        if isinstance(script, Script):
            client.script_load(script.text)
    async with redis_store(proxy.url, {}, clock) as opened:
        await opened.create(make_session())
        await opened.append(KEY, "get", {"n": 1})
        yield opened


WRITES = {
    "create": (1, lambda store, make_session, clock: store.create(make_session(OTHER))),
    "touch": (1, lambda store, make_session, clock: store.touch(KEY, clock(), clock() + timedelta(seconds=200))),
    "update": (2, lambda store, make_session, clock: store.update(KEY, {"state": {"a": 1}}, 0)),
    "delete": (1, lambda store, make_session, clock: store.delete(KEY)),
    "sweep": (1, lambda store, make_session, clock: store.sweep(clock.advance(100), 100)),
    "append": (1, lambda store, make_session, clock: store.append(KEY, "get", {"n": 2})),
    "claim": (1, lambda store, make_session, clock: store.claim("lease", "me", 10)),
    "release": (1, lambda store, make_session, clock: store.release("lease", "me")),
}
READS = {
    "get": (1, lambda store, make_session, clock: store.get(KEY)),
    "count": (1, lambda store, make_session, clock: store.count()),
    "page": (1, lambda store, make_session, clock: store.page(None, 10)),
    "read": (1, lambda store, make_session, clock: store.read(KEY, None)),
    "wait": (1, lambda store, make_session, clock: store.wait(KEY, None, 1000)),
    "ping": (1, lambda store, make_session, clock: store.ping()),
}
NOTHING_TO_DO = {
    "get": (1, lambda store, make_session, clock: store.get("unknown")),
    "update": (1, lambda store, make_session, clock: store.update("unknown", {}, 0)),
    "sweep": (0, lambda store, make_session, clock: store.sweep(clock(), 0)),
    "read": (0, lambda store, make_session, clock: store.read(KEY, "nonsense")),
}


@pytest.mark.parametrize(
    ("round_trips", "operation"),
    [*WRITES.values(), *READS.values(), *NOTHING_TO_DO.values()],
    ids=[*WRITES, *READS, *(f"{name} of nothing" for name in NOTHING_TO_DO)],
)
async def test_an_operation_takes_one_round_trip_and_an_update_two(
    store, proxy, make_session, clock, round_trips, operation
):
    before = proxy.requests
    await operation(store, make_session, clock)
    assert proxy.requests - before == round_trips


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("operation", [operation for _, operation in READS.values()], ids=READS)
async def test_a_read_is_repeated_when_the_connection_breaks(store, proxy, make_session, clock, operation, lost):
    expected = await operation(store, make_session, clock)
    before = proxy.requests
    proxy.losses = [lost]
    assert await operation(store, make_session, clock) == expected
    assert proxy.requests - before == 2


async def test_a_read_is_repeated_once(store, proxy):
    before = proxy.requests
    proxy.losses = ["answer"] * 10
    with pytest.raises(StoreUnavailable):
        await store.get(KEY)
    assert proxy.requests - before == 2


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize(("round_trips", "operation"), WRITES.values(), ids=WRITES)
async def test_a_write_is_not_repeated_when_it_may_have_been_executed(
    store, proxy, make_session, clock, round_trips, operation, lost
):
    before = proxy.requests
    proxy.losses = [None] * (round_trips - 1) + [lost]
    with pytest.raises(StoreUnavailable):
        await operation(store, make_session, clock)
    assert proxy.requests - before == round_trips


async def test_a_write_is_executed_once_when_its_answer_is_lost(store, proxy, make_session):
    proxy.losses = ["answer"]
    with pytest.raises(StoreUnavailable):
        await store.create(make_session(OTHER))
    assert await store.get(OTHER) == make_session(OTHER)
    proxy.losses = ["answer"]
    with pytest.raises(StoreUnavailable):
        await store.append(KEY, "get", {"n": 2})
    assert [event.message for event in await store.read(KEY, None)] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("with_reset", [False, True])
async def test_an_operation_succeeds_when_idle_connections_were_broken(
    store, proxy, make_session, clock, eventually, with_reset
):
    await asyncio.gather(*(store.get(KEY) for _ in range(20)))
    process = psutil.Process()
    port = int(proxy.url.rpartition(":")[2])

    def list_established():
        return [
            connection
            for connection in process.net_connections()
            if connection.raddr and connection.raddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        ]

    assert len(list_established()) > 2
    proxy.break_all(with_reset=with_reset)
    await eventually(lambda: len(list_established()) == 1, "only the subscribed connection is established")
    for number in range(20):
        await store.create(make_session(f"later-{number}"))
    assert await store.count() == 21


async def test_scripts_are_sent_again_when_the_server_has_lost_them(client, store, make_session):
    client.script_flush()
    await store.create(make_session(OTHER))
    assert await store.count() == 2
