"""What all tests share."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import psutil
import pytest

DID_NOT_RUN: Final = "did not run: "
"""How the reason begins for which tests are skipped that need a server which is not there."""


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio: that is what Tornado runs on."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Generator[None]:
    """No process and no socket outlives the tests that made it."""
    this = psutil.Process()
    before = {(connection.laddr, connection.raddr) for connection in this.net_connections()}
    yield
    assert this.children(recursive=True) == []
    left = {(connection.laddr, connection.raddr) for connection in this.net_connections()} - before
    assert left == set()
