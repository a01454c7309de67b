"""An answer that the store cannot keep."""

from __future__ import annotations

import pytest

from mcp_tornado.sessions import system_clock
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.streams.responses import Outcome, ResponseStream

pytestmark = pytest.mark.anyio

LARGE = {"jsonrpc": "2.0", "id": "large", "result": {"text": "x" * 1000}}


class SmallStore(MemoryStore):
    """Keeps no large documents, as some databases do."""

    async def append(self, key, stream, message, *, final=False):
        if len(str(message)) > 500:
            raise ValueError("too large")
        return await super().append(key, stream, message, final=final)


async def told(log):
    return [(event.message["id"], event.message["error"]["data"]["code"]) for event in await log.read("@p", None)]


@pytest.mark.parametrize("opened_first", [True, False])
async def test_who_comes_back_for_it_is_told_that_it_could_not_be_kept(opened_first):
    async with SmallStore(system_clock) as log:
        stream = ResponseStream(log, "@p", "send-", process="p", requests=["large"], on_gone=pytest.fail)
        stream.abandon()
        if opened_first:
            await stream.open()
        await stream.settle(Outcome(LARGE))
        await stream.open()
        assert await told(log) == [("large", "INTERNAL_ERROR")]
        (event,) = await log.read("@p", None)
        assert event.final


async def test_a_client_that_is_connected_gets_it():
    async with SmallStore(system_clock) as log:
        stream = ResponseStream(log, "@p", "post-", process="p", requests=["large"], on_gone=pytest.fail)
        await stream.open()
        await stream.settle(Outcome(LARGE))
        assert [frame.message async for frame in stream.queue.frames(10)] == [LARGE]
