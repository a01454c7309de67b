"""Fixtures of the tests of the HTTP server."""

from __future__ import annotations

import logging
from collections.abc import Generator

import pytest


@pytest.fixture(autouse=True)
def no_errors_logged(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Check that nothing was logged as an error; a test that expects an error calls `caplog.clear()`."""
    yield
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [(record.name, record.getMessage(), record.exc_info) for record in errors] == []
