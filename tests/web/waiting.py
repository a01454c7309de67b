"""Waiting for an event with a deadline."""

from __future__ import annotations

import asyncio

import pytest

_TIMEOUT_SECONDS = 30


async def wait_for_event(event: asyncio.Event, description: str) -> None:
    """Wait for an event; `description` says in the failure what did not happen."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await event.wait()
    except TimeoutError:
        pytest.fail(f"not within {_TIMEOUT_SECONDS} seconds: {description}")
