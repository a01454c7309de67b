"""What answers one POST: JSON while nothing was emitted, an event stream from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from mcp_tornado import jsonrpc
from mcp_tornado.jsonrpc import RequestId
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, EventLog, SessionError, SessionGone, StreamEnded, short_key
from mcp_tornado.sessions.encoding import encode
from mcp_tornado.streams.append import StreamAppender
from mcp_tornado.streams.frames import Frame, FrameQueue, FrameReader
from mcp_tornado.streams.names import ids_stream, new_stream
from mcp_tornado.streams.timers import SharedTimer

_log = get_logger(__name__)

_STORE_PATIENCE: Final = 10.0
"""Seconds for which a message waits for the store while a client is attached that could do without."""
_NOT_KEPT: Final = "The answer is more than the session store can keep"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is not a stream: its HTTP status, its body, which is JSON, and `Retry-After` in seconds."""

    status: int
    body: bytes
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request went: the JSON-RPC response, and what HTTP is told where that is not sent as a stream."""

    message: Mapping[str, Any]
    status: int = 200
    retry_after: int | None = None


def encoded(message: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
    """Return a response and its bytes; an error instead, where a handler put something into it that is no JSON."""
    try:
        return message, encode(message)
    except (TypeError, ValueError):
        _log.exception("answer.unencodable", request_id=message.get("id"))
        failed = jsonrpc.error(message.get("id"), SessionError(ErrorCode.INTERNAL_ERROR).to_error())
        return failed, encode(failed)


class ResponseStream:
    """Collects the answers to the requests of one POST, or of one call of `/mcp/send`.

    While nothing was emitted, nothing is written to the event log: the answers are handed out as JSON. From
    `open` on, everything is written to the log too, so that a client which lost the connection can resume; one that is
    still connected is sent it from `queue`, whatever the log forgets.

    Args:
        log: The session's event log.
        key: The session's key.
        prefix: How the stream's name begins.
        process: The name of this process, for the stream's name.
        requests: The ids of the requests that will be answered.
        primed: Whether the stream begins with a priming event (MCP 2025-11-25, basic/transports).
        as_list: Whether the JSON answer is a list, even of one (a batch).
        may_stream: Whether it can become a stream at all; else what is emitted is dropped.
        on_gone: Called when the session is found to have ended.
    """

    def __init__(
        self,
        log: EventLog,
        key: str,
        prefix: str,
        *,
        process: str,
        requests: Sequence[RequestId],
        primed: bool = False,
        as_list: bool = False,
        may_stream: bool = True,
        on_gone: Callable[[], object],
    ) -> None:
        self.key = key
        self.may_stream = may_stream
        self._on_gone = on_gone
        self._log = log
        self._prefix = prefix
        self._process = process
        self._requests = requests
        self._missing = len(requests)
        self._primed = primed
        self._as_list = as_list
        self._answers: list[tuple[Mapping[str, Any], bytes]] = []
        self._status = 200
        self._retry_after: int | None = None
        self._events: StreamAppender | None = None
        """Where the stream is in the log; `None` while it is none."""
        self._writing: asyncio.Lock | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._abandoned = False
        self.queue = FrameQueue()
        """What the POST's own connection is sent."""

    @property
    def name(self) -> str | None:
        """The stream's name in the log; `None` while nothing is written."""
        return self._events.stream if self._events is not None else None

    async def answered(self, patience: SharedTimer | None) -> bool:
        """Wait until all is answered or something was emitted, as long as patience lasts (`None`: for ever).

        Returns:
            Whether the answer is at hand, or the client is gone; else a stream is called for.
        """
        if self._missing and self._events is None and not self._abandoned:
            self._waiter = asyncio.get_running_loop().create_future()
            wait = patience.call_later(self._decide) if patience is not None else None
            try:
                await self._waiter
            finally:
                self._waiter = None
                if wait is not None:
                    wait.cancel()
        return self._abandoned or (self._events is None and not self._missing)

    def _decide(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _lock(self) -> asyncio.Lock:
        """Return what keeps the order of the writes; an answer that is never streamed needs none."""
        if self._writing is None:
            self._writing = asyncio.Lock()
        return self._writing

    def answer(self) -> Answer:
        """Return the JSON answer; call it only after `answered` said that it is at hand."""
        bodies = [body for _, body in self._answers]
        body = b"[%s]" % b",".join(bodies) if self._as_list else b"".join(bodies)
        return Answer(self._status, body, self._retry_after)

    def abandon(self) -> None:
        """Say that the client has hung up, or never waited: the requests go on."""
        self._abandoned = True
        self.queue.close(at_once=True)
        self._decide()

    async def open(self) -> None:
        """Become a stream, if it is not one yet: write the priming event, where there is one, and go to the log.

        Raises:
            SessionError: `STORE_UNAVAILABLE`; it is no stream then.
            SessionGone: The session has ended.
        """
        async with self._lock():
            await self._open(patience=0)

    async def _open(self, patience: float) -> StreamAppender:
        if self._events is not None:
            return self._events
        events = StreamAppender(self._log, self.key, new_stream(self._prefix, self._process, self._requests))
        ids = ids_stream(events.stream)
        if ids is not None:
            with suppress(SessionGone):
                await self._log.append(self.key, ids, {"requests": list(self._requests)})
        if self._primed:
            try:
                self.queue.put(Frame(await events.append(None, seconds=patience), None))
            except SessionGone:
                self._on_gone()
                raise
        self._events = events
        answers, self._answers = self._answers, []
        for index, (message, _) in enumerate(answers, start=1):
            await self._append_answer(events, message, last=index == len(answers) and not self._missing)
        self._decide()
        return events

    async def _append(self, events: StreamAppender, message: Mapping[str, Any]) -> None:
        """Write to the log and send to the connection that is attached.

        While the store is away this waits for it, so that nothing is lost or comes twice; not for ever where a
        connection is attached, for that can do without the log.

        Raises:
            SessionGone, StreamEnded: There is no connection, and the log does not take it.
            ValueError: The same, because the store cannot keep it: it is too large, say.
        """
        event_id = None
        while event_id is None:
            try:
                event_id = await events.append(message, seconds=None if self.queue.closed else _STORE_PATIENCE)
            except SessionError:
                if not self.queue.closed:
                    break
            except (SessionGone, StreamEnded, ValueError):
                if self.queue.closed:
                    raise
                break
        self.queue.put(Frame(event_id, message))

    async def _append_answer(self, events: StreamAppender, message: Mapping[str, Any], *, last: bool) -> None:
        """Do the same for an answer, which a connection that is attached gets at once, whatever the store does.

        One that the store cannot keep becomes an error in the log, for somebody may come back for it.
        """
        handed_out = False

        def hand_out(event_id: str | None = None) -> None:
            nonlocal handed_out
            if not handed_out:
                handed_out = True
                self.queue.put(Frame(event_id, message), last=last)

        try:
            hand_out(await events.append(message, final=last, on_trouble=hand_out))
        except (SessionGone, StreamEnded):
            hand_out()
        except ValueError:
            hand_out()
            error = SessionError(ErrorCode.INTERNAL_ERROR, _NOT_KEPT).to_error()
            with suppress(SessionGone, StreamEnded):
                await events.append(jsonrpc.error(message.get("id"), error), final=last)

    async def emit(self, message: Mapping[str, Any]) -> None:
        """Send a notification or a request of the server's; dropped where there can be no stream any more.

        Returns once a client that is attached has taken most of what was sent.

        Raises:
            SessionError: `STORE_UNAVAILABLE`: there is no stream yet, and none could be opened.
        """
        if not self.may_stream:
            return
        async with self._lock():
            if not self._missing:
                return
            try:
                await self._append(await self._open(_STORE_PATIENCE), message)
            except (SessionGone, StreamEnded) as error:
                if isinstance(error, SessionGone):
                    self._on_gone()
                _log.debug("message.dropped", session=short_key(self.key), method=message.get("method"))
        await self.queue.room()

    async def settle(self, outcome: Outcome) -> None:
        """Take the answer to one of the requests.

        Where the session has ended or the store fails, a client that is still connected gets it all the same.
        """
        message, body = encoded(outcome.message)
        if self._writing is None:
            self._collect(message, body, outcome)
            return
        async with self._writing:
            if self._events is None:
                self._collect(message, body, outcome)
                return
            self._missing -= 1
            await self._append_answer(self._events, message, last=not self._missing)

    def _collect(self, message: Mapping[str, Any], body: bytes, outcome: Outcome) -> None:
        self._missing -= 1
        self._status, self._retry_after = outcome.status, outcome.retry_after
        self._answers.append((message, body))
        if not self._missing:
            self._decide()

    async def detach(self) -> None:
        """Close the connection that the stream answers, for the client to come back with `Last-Event-ID`.

        Of use only where the stream is primed: without an event id the client could not come back.
        """
        try:
            await self.open()
        except (SessionError, SessionGone):
            _log.warning(
                "stream.kept", session=short_key(self.key), hint="without the store nobody could come back to it"
            )
            return
        self.queue.close()


class SessionExchange:
    """One POST of a session, as the web layer answers it."""

    def __init__(self, stream: ResponseStream, patience: SharedTimer | None) -> None:
        self._stream = stream
        self._patience = patience

    async def answer(self) -> Answer | None:
        """Return the JSON answer, or `None` where `frames` are to be streamed."""
        if await self._stream.answered(self._patience):
            return self._stream.answer()
        try:
            await self._stream.open()
        except (SessionError, SessionGone):
            # No stream without a store; the answer itself needs none. Unless a stream could be opened after all.
            if await self._stream.answered(None):
                return self._stream.answer()
        return None

    def reader(self) -> FrameReader:
        """Return who reads the stream, once `answer` has said that there is one."""
        return self._stream.queue

    def disconnect(self) -> None:
        """Say that the client has hung up; a handshake-era call goes on."""
        self._stream.abandon()
