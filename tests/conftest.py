"""What all tests share, and what is said when they have run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from typing import Final

import psutil
import pytest

from mcp_tornado.testing import StoreContract

DID_NOT_RUN: Final = "did not run: "
"""How the reason begins for which a test is skipped that a server would be needed for."""

_contract_of: Final[dict[str, str]] = {}
"""The store whose contract a test belongs to, by the test's id."""
_ran: Final[Counter[str]] = Counter()
_missing: Final[Counter[str]] = Counter()


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = getattr(item, "cls", None)
        if kind is not None and issubclass(kind, StoreContract):
            _contract_of[item.nodeid] = re.sub("^Test|(Sessions|Events)$", "", kind.__name__)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _, found, reason = report.longrepr[2].partition(DID_NOT_RUN)
        if found:
            _missing[reason] += 1
    elif report.when == "call" and report.nodeid in _contract_of:
        _ran[_contract_of[report.nodeid]] += 1


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say, as the last thing, how much of the contract ran for which store, and what did not run."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and _ran:
        counts = ", ".join(f"{store} {count}" for store, count in sorted(_ran.items()))
        terminal.write_line(f"contract tests run: {counts}")
    if terminal is not None and _missing:
        reasons = "; ".join(f"{reason} ({count} tests)" for reason, count in sorted(_missing.items()))
        terminal.write_line(f"{DID_NOT_RUN}{reasons}")
