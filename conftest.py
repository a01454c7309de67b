"""What is said when the tests of all distributions have run: how much of the contract, and what did not run."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Final

import pytest

from mcp_tornado.testing import StoreContract

_DID_NOT_RUN: Final = "did not run: "
"""How the reason begins for which tests are skipped that need a server which is not there."""
_DEPLOYMENTS: Final = ("TEST_MONGODB_URL", "TEST_REDIS_URL")

_CONTRACT: Final = "contract"
"""The property of a test which says whose contract it belongs to; it comes along where tests run in other processes."""
_ran: Final[Counter[str]] = Counter()
_missing: Final[Counter[str]] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note which tests belong to the contract of which store: `TestRedisEvents` to that of Redis."""
    for item in items:
        kind = getattr(item, "cls", None)
        if kind is not None and issubclass(kind, StoreContract):
            item.user_properties.append((_CONTRACT, re.sub("^Test|(Sessions|Events)$", "", kind.__name__)))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note the modules that are left out as a whole."""
    _note_skip(report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count."""
    _note_skip(report)
    if report.when == "call" and not report.skipped:
        _ran.update(str(store) for name, store in report.user_properties if name == _CONTRACT)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say it, as the last thing."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return
    if _ran:
        counts = ", ".join(f"{store} {count}" for store, count in sorted(_ran.items()))
        terminal.write_line(f"contract tests run: {counts}")
        unset = [name for name in _DEPLOYMENTS if name not in os.environ]
        if unset:
            terminal.write_line(f"no deployment of yours was tested: {', '.join(unset)} not set")
    if _missing:
        reasons = "; ".join(f"{reason} ({count} tests)" for reason, count in sorted(_missing.items()))
        terminal.write_line(f"{_DID_NOT_RUN}{reasons}")


def _note_skip(report: pytest.CollectReport | pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _, found, reason = report.longrepr[2].partition(_DID_NOT_RUN)
        if found:
            _missing[reason] += 1
