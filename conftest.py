"""The summary after the tests of all distributions: contract tests by store, and tests without their server."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Final

import pytest

from mcp_tornado.testing import StoreContract

_DID_NOT_RUN: Final = "did not run: "
"""The beginning of the reason with which a test is skipped if it needs a server that is not installed."""
_DEPLOYMENT_VARIABLES: Final = ("TEST_MONGODB_URL", "TEST_REDIS_URL")

_STORE_PROPERTY: Final = "contract"
"""The name of the user property of a contract test; its value is the store. pytest-xdist transmits user properties."""
_contract_tests: Final[Counter[str]] = Counter()
_skipped_tests: Final[Counter[str]] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Record the store of each contract test: `TestRedisEvents` belongs to `Redis`."""
    for item in items:
        test_class = getattr(item, "cls", None)
        if test_class is not None and issubclass(test_class, StoreContract):
            store = re.sub("^Test|(Sessions|Events)$", "", test_class.__name__)
            item.user_properties.append((_STORE_PROPERTY, store))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count the modules that are skipped as a whole."""
    _count_skip(report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the contract tests that ran, and the tests that were skipped without their server."""
    _count_skip(report)
    if report.when == "call" and not report.skipped:
        _contract_tests.update(str(store) for name, store in report.user_properties if name == _STORE_PROPERTY)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write the summary as the last lines of the output."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return
    if _contract_tests:
        counts = ", ".join(f"{store} {count}" for store, count in sorted(_contract_tests.items()))
        terminal.write_line(f"contract tests run: {counts}")
        unset = [name for name in _DEPLOYMENT_VARIABLES if name not in os.environ]
        if unset:
            terminal.write_line(f"no external deployment was tested: {', '.join(unset)} not set")
    if _skipped_tests:
        reasons = "; ".join(f"{reason} ({count} tests)" for reason, count in sorted(_skipped_tests.items()))
        terminal.write_line(f"{_DID_NOT_RUN}{reasons}")


def _count_skip(report: pytest.CollectReport | pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _, found, reason = report.longrepr[2].partition(_DID_NOT_RUN)
        if found:
            _skipped_tests[reason] += 1
