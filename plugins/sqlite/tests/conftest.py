"""What the tests of the SQLite store share."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend():
    """Asynchronous tests run on asyncio: that is what Tornado runs on."""
    return "asyncio"
