"""Fixtures of all tests."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Generator
from typing import Final

import psutil
import pytest
import structlog

from mcp_tornado import log
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import SessionManager, SessionRules, SessionStore
from mcp_tornado.testing import FakeClock

DID_NOT_RUN: Final = "did not run: "
"""Prefix of the reason if a test is skipped because a program that it needs is missing."""


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as Tornado does."""
    return "asyncio"


@pytest.fixture
def clock() -> FakeClock:
    """A clock that advances only when a test advances it."""
    return FakeClock()


@pytest.fixture
def make_manager(store: SessionStore, clock: FakeClock) -> Callable[..., SessionManager]:
    """Return a function that makes the session manager of one process, on the shared `store`."""

    def make(**rules: int) -> SessionManager:
        given = {"idle_timeout": 100, "lifetime": 1000, "touch_interval": 10, **rules}
        return SessionManager(store, SessionRules(**given), clock=clock, metrics=Metrics("1"))

    return make


@pytest.fixture
def manager(make_manager: Callable[..., SessionManager]) -> SessionManager:
    """The session manager of one process."""
    return make_manager()


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Generator[io.StringIO]:
    """The log of this test, from DEBUG up, as JSON lines; the logging configuration is restored at the end."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    stream = io.StringIO()
    monkeypatch.setattr(log, "_threshold", log._threshold)
    monkeypatch.setattr(logging, "captureWarnings", lambda capture: None)
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", stream)
        log.configure("DEBUG", "json")
    yield stream
    structlog.configure(**config)
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session", autouse=True)
def check_for_leaks() -> Generator[None]:
    """Check at the end that no process and no socket of a test remains."""
    this = psutil.Process()
    before = {(connection.laddr, connection.raddr) for connection in this.net_connections()}
    yield
    assert this.children(recursive=True) == []
    left = {(connection.laddr, connection.raddr) for connection in this.net_connections()} - before
    assert left == set()
