"""An answer that is too large for the store."""

from __future__ import annotations

import pytest

from mcp_tornado.sessions import system_clock
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.streams.responses import Outcome, ResponseStream

pytestmark = pytest.mark.anyio

LARGE = {"jsonrpc": "2.0", "id": "large", "result": {"text": "x" * 1000}}


class SmallStore(MemoryStore):
    """A store that refuses large documents, as some databases do."""

    async def append(self, key, stream, message, *, final=False):
        if len(str(message)) > 500:
            raise ValueError("too large")
        return await super().append(key, stream, message, final=final)


async def read_errors(log):
    """Return the request id and the symbolic code of each error in the log."""
    return [(event.message["id"], event.message["error"]["data"]["code"]) for event in await log.read("@p", None)]


@pytest.mark.parametrize("opened_first", [True, False])
async def test_an_answer_that_is_too_large_becomes_an_error_for_a_client_that_resumes_the_stream(opened_first):
    async with SmallStore(system_clock) as log:
        stream = ResponseStream(log, "@p", "send-", process="p", requests=["large"], on_session_gone=pytest.fail)
        stream.mark_disconnected()
        if opened_first:
            await stream.open()
        await stream.add_answer(Outcome(LARGE))
        await stream.open()
        assert await read_errors(log) == [("large", "INTERNAL_ERROR")]
        (event,) = await log.read("@p", None)
        assert event.final


async def test_an_answer_that_is_too_large_is_sent_to_a_connected_client():
    async with SmallStore(system_clock) as log:
        stream = ResponseStream(log, "@p", "post-", process="p", requests=["large"], on_session_gone=pytest.fail)
        await stream.open()
        await stream.add_answer(Outcome(LARGE))
        assert [frame.message async for frame in stream.queue.frames(10)] == [LARGE]
