"""What all tests share."""

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
"""How the reason begins for which tests are skipped that need a server which is not there."""


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio: that is what Tornado runs on."""
    return "asyncio"


@pytest.fixture
def clock() -> FakeClock:
    """The time, which moves when it is told to."""
    return FakeClock()


@pytest.fixture
def make_manager(store: SessionStore, clock: FakeClock) -> Callable[..., SessionManager]:
    """Make what one process has, on the `store` that all share."""

    def make(**rules: int) -> SessionManager:
        given = {"idle_timeout": 100, "lifetime": 1000, "touch_interval": 10, **rules}
        return SessionManager(store, SessionRules(**given), clock=clock, metrics=Metrics("1"))

    return make


@pytest.fixture
def manager(make_manager: Callable[..., SessionManager]) -> SessionManager:
    """The sessions of one process."""
    return make_manager()


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Generator[io.StringIO]:
    """Everything logged from DEBUG up, as JSON on a real stream; leaves nothing behind."""
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
def nothing_is_left_behind() -> Generator[None]:
    """No process and no socket outlives the tests that made it."""
    this = psutil.Process()
    before = {(connection.laddr, connection.raddr) for connection in this.net_connections()}
    yield
    assert this.children(recursive=True) == []
    left = {(connection.laddr, connection.raddr) for connection in this.net_connections()} - before
    assert left == set()
