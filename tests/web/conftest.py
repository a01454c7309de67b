"""Fixtures: an application in this process, a client of it, and a store that fails on demand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from mcp_tornado import create_app
from mcp_tornado.sessions.guard import StoreGuard
from tests.web.client import Client
from tests.web.faults import Faults
from tests.web.hosted import Hosted
from tests.web.lifespan import run_lifespan
from tests.web.service import Service, run_service


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """An event loop for one test, made without the deprecated calls in pytest-tornado's fixture of this name."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield IOLoop.current()
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def hosted() -> Hosted:
    """The MCP server that the application hosts."""
    return Hosted()


@pytest.fixture
def server(hosted: Hosted) -> object:
    """The server object that is passed to `create_app`."""
    return hosted.server


@pytest.fixture
def sections() -> dict[str, Any]:
    """The settings of the application; a test parametrises this fixture to change them."""
    return {}


@pytest.fixture
def handlers() -> list[Any]:
    """The routes of the user's own."""
    return []


@pytest.fixture
def app(io_loop: Any, server: object, sections: dict[str, Any], handlers: list[Any]) -> Iterator[Any]:
    """The application, inside its lifespan."""
    yield from run_lifespan(io_loop, create_app(server, handlers=handlers, **sections))


@pytest.fixture
def client(app: Any, io_loop: Any, http_client: Any, http_port: int) -> Iterator[Client]:
    """A client of the application; its connections are closed after the test."""
    client = Client(http_client, f"http://127.0.0.1:{http_port}")
    yield client

    async def close() -> None:
        for connection in client.connections:
            connection.close()
            with contextlib.suppress(ConnectionError):
                await connection.wait_closed()

    io_loop.run_sync(close)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """The faults of the store `faulty://`, which this fixture installs."""
    faults = Faults()
    monkeypatch.setattr("mcp_tornado.stores.plugins.entry_points", lambda group: [faults.entry_point()])
    return faults


@pytest.fixture
def short_store_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store operation fails as unavailable after 20 milliseconds."""
    monkeypatch.setitem(StoreGuard.run.__kwdefaults__, "timeout", 0.02)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """An application and a connection to it that all examples of a module share."""
    yield from run_service()
