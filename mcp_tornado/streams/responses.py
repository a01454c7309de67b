"""The answer to a POST: JSON, or an event stream.

A silent call sends no message before its answer and ends within `events.stream_after_seconds`. The answer to its POST
is JSON, and it writes nothing to the event log. A POST becomes a stream if one of these happens before all its requests
are answered:

- A handler emits a message: a notification or a server request (a request from the server to the client).
- The stream timer ends (`events.stream_after_seconds`).
- A handler closes the connection, for the client to reconnect later.

At this moment the stream gets its name, which contains the name of this process, and its first event. From then on,
each message is appended to the log and then sent on the connection with its event id. A client that has lost the
connection resumes the stream from the log, in any process. A call of `/mcp/send` has a stream from its beginning, and
no connection.

If the store is unavailable and a client is connected, the client gets answers at once and other messages after at most
10 s, without event ids. If no client is connected, each message waits until the store is available again, and is then
appended once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from mcp_tornado import jsonrpc
from mcp_tornado.jsonrpc import RequestId
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, EventLog, SessionError, SessionGone, StreamEnded, short_key
from mcp_tornado.sessions.encoding import encode
from mcp_tornado.streams.append import StreamAppender
from mcp_tornado.streams.frames import Frame, FrameQueue, FrameReader
from mcp_tornado.streams.names import new_stream_name, request_ids_stream
from mcp_tornado.streams.timers import SharedTimer

_log = get_logger(__name__)

_STORE_RETRY_SECONDS: Final = 10.0
"""How long a message waits for an unavailable store while a client is connected, which can get it without the store."""
_TOO_LARGE: Final = "The answer is larger than the session store can keep"


class AnswerForm(Enum):
    """The form in which a client accepts the answer to a POST."""

    ANY = "any"
    """JSON, or a stream if one is needed."""
    JSON = "json"
    """Never a stream: emitted messages are dropped, and a handler cannot send a server request."""
    STREAM = "stream"
    """Always a stream."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is not a stream: its HTTP status, its JSON body, and `Retry-After` in seconds or `None`."""

    status: int
    body: bytes
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The JSON-RPC response to a request, and the HTTP status and `Retry-After` if it is not sent on a stream."""

    message: Mapping[str, Any]
    status: int = 200
    retry_after: int | None = None


def encode_response(message: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
    """Return a response and its bytes, or an error response if a handler's result cannot be encoded as JSON."""
    try:
        return message, encode(message)
    except (TypeError, ValueError):
        _log.exception("answer.unencodable", request_id=message.get("id"))
        failed = jsonrpc.error(message.get("id"), SessionError(ErrorCode.INTERNAL_ERROR).to_error())
        return failed, encode(failed)


class ResponseStream:
    """Collects the answers to the requests of one POST, or of one call of `/mcp/send`.

    Before `open` nothing is written to the event log, and the answers become a JSON body. After `open`, everything is
    appended to the log, for clients that resume the stream. A connected client gets every message from `queue`, even
    one that the log evicts or could not take.

    Args:
        log: The event log.
        key: The session's key.
        prefix: The prefix of the stream's name.
        process: The name of this process, for the stream's name.
        requests: The ids of the requests that will be answered.
        primed: Whether the stream begins with a priming event (MCP 2025-11-25, basic/transports).
        as_list: Whether the JSON body is a list even for a single answer (a batch).
        may_stream: Whether the POST can become a stream; if not, emitted messages are dropped.
        on_session_gone: Called when an append finds that the session has ended.
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
        on_session_gone: Callable[[], object],
    ) -> None:
        self.key = key
        self.may_stream = may_stream
        self._on_session_gone = on_session_gone
        self._log = log
        self._prefix = prefix
        self._process = process
        self._requests = requests
        self._unanswered = len(requests)
        self._primed = primed
        self._as_list = as_list
        self._answers: list[tuple[Mapping[str, Any], bytes]] = []
        """The answers, and their bytes, that are not in the log because there is no stream yet."""
        self._status = 200
        self._retry_after: int | None = None
        self._appender: StreamAppender | None = None
        """Appends to the stream in the log; `None` as long as there is no stream."""
        self._write_lock: asyncio.Lock | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._disconnected = False
        self.queue = FrameQueue()
        """The frames for the connection of the POST itself."""

    @property
    def name(self) -> str | None:
        """The stream's name in the log; `None` as long as nothing is written."""
        return self._appender.stream if self._appender is not None else None

    async def wait_for_json_answer(self, stream_timer: SharedTimer | None) -> bool:
        """Wait until all requests are answered, something is emitted, the client disconnects, or the timer ends.

        Args:
            stream_timer: Ends the wait when it is over; `None` sets no time limit.

        Returns:
            Whether `json_answer` can be sent, or there is no client to send to. If not, a stream is needed.
        """
        if self._unanswered and self._appender is None and not self._disconnected:
            self._waiter = asyncio.get_running_loop().create_future()
            timeout = stream_timer.call_later(self._wake_waiter) if stream_timer is not None else None
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timeout is not None:
                    timeout.cancel()
        return self._disconnected or (self._appender is None and not self._unanswered)

    def _wake_waiter(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _get_write_lock(self) -> asyncio.Lock:
        """Return the lock that keeps the order of the writes. It is made late: a silent call never needs it."""
        if self._write_lock is None:
            self._write_lock = asyncio.Lock()
        return self._write_lock

    def json_answer(self) -> Answer:
        """Return the JSON answer. Call this only after `wait_for_json_answer` has returned true."""
        bodies = [body for _, body in self._answers]
        body = b"[%s]" % b",".join(bodies) if self._as_list else b"".join(bodies)
        return Answer(self._status, body, self._retry_after)

    def queue_answers(self) -> None:
        """Send the answers on the connection without event ids, as a stream that is not in the log.

        Call this only after `wait_for_json_answer` has returned true.
        """
        for index, (message, _) in enumerate(self._answers, start=1):
            self.queue.put(Frame(None, message), last=index == len(self._answers))

    def mark_disconnected(self) -> None:
        """Note that the client has disconnected, or never waited for the answer. The requests go on."""
        self._disconnected = True
        self.queue.close(discard_pending=True)
        self._wake_waiter()

    async def open(self) -> None:
        """Become a stream, unless it is one: append the priming event, if there is one, and the answers so far.

        Raises:
            SessionError: `STORE_UNAVAILABLE`; then there is no stream.
            SessionGone: The session has ended.
        """
        async with self._get_write_lock():
            await self._open(retry_seconds=0)

    async def _open(self, retry_seconds: float) -> StreamAppender:
        if self._appender is not None:
            return self._appender
        appender = StreamAppender(self._log, self.key, new_stream_name(self._prefix, self._process, self._requests))
        ids_stream = request_ids_stream(appender.stream)
        if ids_stream is not None:
            with suppress(SessionGone):
                await self._log.append(self.key, ids_stream, {"requests": list(self._requests)})
        if self._primed:
            try:
                self.queue.put(Frame(await appender.append(None, retry_seconds=retry_seconds), None))
            except SessionGone:
                self._on_session_gone()
                raise
        self._appender = appender
        answers, self._answers = self._answers, []
        for index, (message, _) in enumerate(answers, start=1):
            await self._append_answer(appender, message, last=index == len(answers) and not self._unanswered)
        self._wake_waiter()
        return appender

    async def _append(self, appender: StreamAppender, message: Mapping[str, Any]) -> None:
        """Append a message to the log, and send it to a connected client.

        If the store is unavailable and no client is connected, this waits for the store. If a client is connected, the
        wait is limited: the client then gets the message without an event id.

        Raises:
            SessionGone, StreamEnded: No client is connected, and the log does not take the message.
            ValueError: No client is connected, and the store cannot keep the message, for example because of its size.
        """
        event_id = None
        while event_id is None:
            try:
                retry_seconds = None if self.queue.is_closed else _STORE_RETRY_SECONDS
                event_id = await appender.append(message, retry_seconds=retry_seconds)
            except SessionError:
                if not self.queue.is_closed:
                    break
            except (SessionGone, StreamEnded, ValueError):
                if self.queue.is_closed:
                    raise
                break
        self.queue.put(Frame(event_id, message))

    async def _append_answer(self, appender: StreamAppender, message: Mapping[str, Any], *, last: bool) -> None:
        """Append an answer to the log, and send it to a connected client at once, even if the store is unavailable.

        If the store cannot keep the answer, an error takes its place in the log, for a client that resumes the stream.
        """
        is_sent = False

        def send(event_id: str | None = None) -> None:
            nonlocal is_sent
            if not is_sent:
                is_sent = True
                self.queue.put(Frame(event_id, message), last=last)

        try:
            send(await appender.append(message, final=last, on_first_failure=send))
        except (SessionGone, StreamEnded):
            send()
        except ValueError:
            send()
            error = SessionError(ErrorCode.INTERNAL_ERROR, _TOO_LARGE).to_error()
            with suppress(SessionGone, StreamEnded):
                await appender.append(jsonrpc.error(message.get("id"), error), final=last)

    async def emit(self, message: Mapping[str, Any]) -> None:
        """Send a notification or a server request on the stream, which is opened if needed.

        The message is dropped if the POST may not become a stream, if all requests are answered, or if the session has
        ended and no client is connected. If too many frames wait for a slow client, this waits until there is room.

        Raises:
            SessionError: `STORE_UNAVAILABLE`: there is no stream yet, and none could be opened.
            ValueError: No client is connected, and the store cannot keep the message.
        """
        if not self.may_stream:
            return
        async with self._get_write_lock():
            if not self._unanswered:
                return
            try:
                await self._append(await self._open(_STORE_RETRY_SECONDS), message)
            except (SessionGone, StreamEnded) as error:
                if isinstance(error, SessionGone):
                    self._on_session_gone()
                _log.debug("message.dropped", session=short_key(self.key), method=message.get("method"))
        await self.queue.wait_for_room()

    async def add_answer(self, outcome: Outcome) -> None:
        """Take the answer to one of the requests, and send it if there is a stream.

        A connected client gets the answer even if the session has ended or the store is unavailable.
        """
        message, body = encode_response(outcome.message)
        if self._write_lock is None:
            self._collect(message, body, outcome)
            return
        async with self._write_lock:
            if self._appender is None:
                self._collect(message, body, outcome)
                return
            self._unanswered -= 1
            await self._append_answer(self._appender, message, last=not self._unanswered)

    def _collect(self, message: Mapping[str, Any], body: bytes, outcome: Outcome) -> None:
        self._unanswered -= 1
        self._status, self._retry_after = outcome.status, outcome.retry_after
        self._answers.append((message, body))
        if not self._unanswered:
            self._wake_waiter()

    async def close_connection(self) -> None:
        """Close the connection of the POST, for the client to reconnect with `Last-Event-ID`.

        Useful only if the stream is primed: without an event id the client cannot resume the stream.
        """
        try:
            await self.open()
        except (SessionError, SessionGone):
            _log.warning(
                "stream.kept",
                session=short_key(self.key),
                hint="the connection stays open, because without the store the client could not resume the stream",
            )
            return
        self.queue.close()


class SessionExchange:
    """One POST of a session, for the web layer.

    Args:
        stream: Collects the answers.
        stream_timer: Limits the wait for a JSON answer; `None` sets no time limit.
        always_streams: Whether the answer is sent as a stream even if it is available at once.
    """

    def __init__(
        self, stream: ResponseStream, stream_timer: SharedTimer | None, *, always_streams: bool = False
    ) -> None:
        self._stream = stream
        self._stream_timer = stream_timer
        self._always_streams = always_streams

    async def answer(self) -> Answer | None:
        """Return the JSON answer, or `None` if the frames of `reader` are to be streamed."""
        if not self._always_streams and await self._stream.wait_for_json_answer(self._stream_timer):
            return self._stream.json_answer()
        try:
            await self._stream.open()
        except (SessionError, SessionGone):
            # The answer alone needs no store: wait for it, unless a handler opens the stream later.
            if await self._stream.wait_for_json_answer(None):
                if not self._always_streams:
                    return self._stream.json_answer()
                self._stream.queue_answers()
        return None

    def reader(self) -> FrameReader:
        """Return the reader of the stream. Call this only after `answer` has returned `None`."""
        return self._stream.queue

    def disconnect(self) -> None:
        """Note that the client has disconnected. A handshake-era call goes on."""
        self._stream.mark_disconnected()
