"""The audit at the end of a run: it reads every session again, through the proxy, which records the answers.

The audit judges nothing. Its requests become records, and the verdict judges them with all others.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

import httpx2
import orjson

from mcp_tornado.sessions import EventId
from mcp_tornado.streams.names import STANDALONE
from tests.chaos.client_context import ACCEPT, ANSWER_TIMEOUT_SECONDS, RETRY_INTERVAL_SECONDS, ClientContext
from tests.chaos.marks import Mark
from tests.chaos.proxy import REPLAY_HEADER
from tests.chaos.records import Exchange, Message, is_response
from tests.chaos.session_records import SessionRecords, sessions_in, stream_of
from tests.chaos.transports import SharedTransport

_CONCURRENT_SESSIONS: Final = 8
_REPLAY: Final = {REPLAY_HEADER: "1"}

_call_numbers: Final = itertools.count(1)


async def audit(context: ClientContext, records: Sequence[Exchange]) -> None:
    """Read every session that its client did not end: its record, its state, its events and missing answers."""
    slots = asyncio.Semaphore(_CONCURRENT_SESSIONS)

    async def audit_session(session: SessionRecords) -> None:
        transport, headers = SharedTransport(context.http), {"Mcp-Session-Id": session.id, **ACCEPT}
        async with slots, httpx2.AsyncClient(transport=transport, timeout=60, headers=headers) as http:
            await _Auditor(context.url, http, session).run()

    async with asyncio.TaskGroup() as tasks:
        for session in sessions_in(list(records)):
            if not session.deletions:
                tasks.create_task(audit_session(session))


class _Auditor:
    """Reads one session again; what it reads follows from the earlier records."""

    def __init__(self, url: str, http: httpx2.AsyncClient, session: SessionRecords) -> None:
        self._url = url
        self._http = http
        self._session = session

    async def run(self) -> None:
        response = await self._send_until_answered("GET", "/session")
        if response is None or response.status_code != 200:
            return
        with suppress(TimeoutError):
            await self._receive_everything()
        for call in self._session.calls:
            if call.path == "/mcp" and call.streamed:
                await self._read_call(call)
        if any(call.tool == "remember" for call in self._session.calls):
            owner, call_id = self._session.owner or "", f"{next(_call_numbers):08x}"
            params = {"name": "recall", "arguments": {"mark": str(Mark(owner, call_id))}}
            message = {"jsonrpc": "2.0", "id": call_id, "method": "tools/call", "params": params}
            await self._send_until_answered("POST", "", message)

    async def _read_call(self, call: Exchange) -> None:
        """Resume the stream of a call that has no answer yet; read a stream again that was read in several parts."""
        ids = [event.id for event in call.events if event.id is not None]
        if not ids:
            return
        parts = [each for each in self._session.exchanges if stream_of(each) == stream_of(call)]
        if not self._session.answers(call):
            for event in (event for each in parts for event in each.events):
                await self._reply(event.message)
            newest = max(event.id for each in parts for event in each.events if event.id is not None)
            await self._read_until(newest, lambda _, message: is_response(message), replay=False)
        if len(parts) > 1:
            await self._read_until(ids[0], lambda _, message: is_response(message), replay=True)

    async def _receive_everything(self) -> None:
        """Poll `/mcp/receive` until it has no more events and every accepted request is answered."""
        open_calls = {call.rpc_id for call in self._session.calls if call.path == "/mcp/send" and call.status == 202}
        after: str | None = None
        standalone: list[str] = []
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            while True:
                query = f"?wait={2 if open_calls else 0}" + (f"&after={after}" if after is not None else "")
                response = await self._send_until_answered("GET", f"/receive{query}", replay=True)
                if response is None or response.status_code != 200:
                    return
                events: list[dict[str, Any]] = response.json()["events"]
                if open_calls:
                    for event in events:
                        await self._reply(event["message"])
                open_calls -= {event["message"].get("id") for event in events if is_response(event["message"])}
                standalone += [event["id"] for event in events if _is_standalone(event["id"])]
                after = response.json()["after"]
                if not events and not open_calls:
                    break
        if len(standalone) > 1:
            await self._read_until(standalone[0], lambda event_id, _: event_id == standalone[-1], replay=True)

    async def _reply(self, message: Message | None) -> None:
        """Reply to a question whose client may be gone; the server drops a reply that no tool waits for."""
        if message is not None and message.get("method") == "elicitation/create":
            content = {"mark": message["params"]["message"]}
            result = {"action": "accept", "content": content}
            await self._send_until_answered("POST", "", {"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def _read_until(
        self, after: str, is_last: Callable[[str | None, Message | None], bool], *, replay: bool
    ) -> None:
        """Read a stream after an event up to its last event; a stream that ends earlier is resumed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                while True:
                    async with aclosing(self._read_events(after, replay)) as events:
                        async for event_id, message in events:
                            after = event_id or after
                            if not replay:
                                await self._reply(message)
                            if is_last(event_id, message):
                                return
                    await asyncio.sleep(RETRY_INTERVAL_SECONDS)

    async def _read_events(self, after: str, replay: bool) -> AsyncGenerator[tuple[str | None, Message | None]]:
        headers = {"Last-Event-ID": after, **(_REPLAY if replay else {})}
        with suppress(httpx2.TransportError):
            async with self._http.stream("GET", self._url, headers=headers) as response:
                if response.status_code == 200:
                    async for event in httpx2.EventSource(response):
                        yield event.id or None, orjson.loads(event.data) if event.data else None

    async def _send_until_answered(
        self, method: str, path: str, body: Any = None, *, replay: bool = False
    ) -> httpx2.Response | None:
        """Send a request until it gets an answer other than 503; `None` if none came in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                while True:
                    with suppress(httpx2.TransportError):
                        headers = {**ACCEPT, **(_REPLAY if replay else {})}
                        if path.startswith("/receive"):
                            headers["Accept"] = "application/json"
                        response = await self._http.request(method, self._url + path, json=body, headers=headers)
                        if response.status_code != 503:
                            return response
                    await asyncio.sleep(RETRY_INTERVAL_SECONDS)
        return None


def _is_standalone(event_id: str) -> bool:
    parsed = EventId.parse(event_id)
    return parsed is not None and parsed.stream == STANDALONE
