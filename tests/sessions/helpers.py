"""Helpers for the tests of sessions."""

from __future__ import annotations

import pytest

from mcp_tornado.sessions import SessionError


async def refused(call):
    """Await a call that must raise `SessionError`, and return the error."""
    with pytest.raises(SessionError) as caught:
        await call
    return caught.value
