"""No stored data is logged, at any level."""

from __future__ import annotations

import logging

import pytest
from mcp_tornado_mongodb import mongodb_store

pytestmark = pytest.mark.anyio


async def test_the_driver_logs_neither_keys_nor_stored_data(nx_url, clock, make_session, caplog):
    caplog.set_level(logging.DEBUG)
    async with mongodb_store(nx_url, {}, clock) as store:
        await store.create(make_session("key-0001-and-so-on", state={"what": "clients said"}))
        await store.get("key-0001-and-so-on")
        await store.append("key-0001-and-so-on", "get", {"what": "clients said"})
    assert "pymongo" in {record.name.partition(".")[0] for record in caplog.records}
    assert "key-0001-and-so-on" not in caplog.text
    assert "clients said" not in caplog.text
