"""The streams of a session: their names, and following them in the event log."""

from __future__ import annotations

import asyncio
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mcp_tornado.kernel.messages import RequestId, decode, is_list, is_request_id
from mcp_tornado.sessions import EventId, EventLog, SessionError
from mcp_tornado.sessions.encoding import encode

STANDALONE: Final = "get"
"""What the server says unasked: the stream of GET `/mcp`."""
RESPONSE: Final = "post-"
"""How the name of a POST's stream begins."""
_IDS: Final = "ids-"
BACKGROUND: Final = "send-"
"""How the name of the stream of a call of `/mcp/send` begins."""


_MAX_IDS: Final = 512
"""How long the request ids in a stream's name may be; those of others stand in the log."""


def new_stream(prefix: str, process: str, request_ids: Sequence[RequestId]) -> str:
    """Return a new name for the stream of a POST or of a call of `/mcp/send`.

    It tells who writes the stream and which requests it answers, so that somebody else can end it when that process
    has died; where the ids are too long for that, see `ids_stream`. Names are unique by themselves: clients reuse ids.
    """
    name = f"{prefix}{process}-{secrets.token_hex(5)}"
    ids = urlsafe_b64encode(encode(list(request_ids))).decode().rstrip("=")
    return f"{name}-{ids}" if len(ids) <= _MAX_IDS else name


def ids_stream(stream: str) -> str | None:
    """Return the stream that has one event, `{"requests": […]}`, with what a stream answers; `None`: its name tells."""
    parts = stream.split("-", 3)
    return f"{_IDS}{parts[2]}" if len(parts) == 3 else None


async def requests_of(log: EventLog, key: str, stream: str) -> list[RequestId]:
    """Return the ids of the requests that a stream of a session answers, as far as they are known.

    Raises:
        SessionError: `STORE_UNAVAILABLE`.
    """
    apart = ids_stream(stream)
    if apart is None:
        return _requests_in(stream)
    found = await log.read(key, None, stream=apart, limit=1)
    return _request_ids((found[0].message or {}).get("requests")) if found else []


def owner_of(stream: str) -> str | None:
    """Return the process that writes a stream; `None` for the standalone one, which all write."""
    parts = stream.split("-", 3)
    return parts[1] if len(parts) > 2 else None


def _requests_in(stream: str) -> list[RequestId]:
    parts = stream.split("-", 3)
    if len(parts) < 4:
        return []
    try:
        ids = decode(urlsafe_b64decode(parts[3] + "=" * (-len(parts[3]) % 4)))
    except (ValueError, SessionError):  # clients can make names up
        return []
    return _request_ids(ids)


def _request_ids(value: Any) -> list[RequestId]:
    return [request_id for request_id in value if is_request_id(request_id)] if is_list(value) else []


def is_received(stream: str) -> bool:
    """Say whether `/mcp/receive` shows a stream: the standalone one, and those of `/mcp/send`."""
    return stream == STANDALONE or stream.startswith(BACKGROUND)


_QUEUE_LENGTH: Final = 64
"""How many frames wait for a slow client before whoever sends them waits too."""

Alive = Callable[[str], Awaitable[bool]]
"""Says of a session's key whether the session lives; where it does not, its readers are closed soon."""

Tend = Callable[[str | None], Awaitable[bool]]
"""Looks after what is read, given the last event that was read; says whether it may have written something."""
_TEND_SECONDS: Final = 1.0
"""How often a reader with nothing to read looks after what it reads."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What goes out on a stream: a message, or `None` for a priming event; `id` is `None` where none is logged.

    With neither it tells the client no more than after how long to come back.
    """

    id: str | None
    message: Mapping[str, Any] | None


class FrameReader(Protocol):
    """What yields the frames of one connection."""

    def frames(self, keepalive: float) -> AsyncGenerator[Frame | None]:
        """Yield the frames as they come, and `None` whenever `keepalive` seconds pass without one."""
        ...

    def close(self, *, at_once: bool = False) -> None:
        """End the reading; `at_once` leaves out what was not read yet."""
        ...


class FrameQueue:
    """Frames on their way to the one connection they answer; a client that is slow lets the sender wait."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._closed = False
        self._complete = False
        self._changed: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing more is sent."""
        return self._closed

    def put(self, frame: Frame, *, last: bool = False) -> None:
        """Add a frame; `last` ends the queue with it. Nothing is added to a closed one."""
        if not self._closed:
            self._frames.append(frame)
            self._complete = self._complete or last
            _wake(self._changed)

    async def room(self) -> None:
        """Wait until the client has taken most of what was put, or is gone."""
        while len(self._frames) >= _QUEUE_LENGTH and not self._closed:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    async def frames(self, keepalive: float) -> AsyncGenerator[Frame | None]:
        """See `FrameReader.frames`."""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                _wake(self._room)
                yield frame
            if self._closed or self._complete:
                return
            self._changed = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(keepalive):
                    await self._changed
            except TimeoutError:
                yield None

    def close(self, *, at_once: bool = False) -> None:
        """See `FrameReader.close`."""
        self._closed = True
        if at_once:
            self._frames.clear()
        _wake(self._changed)
        _wake(self._room)


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


class StreamReader:
    """Follows streams of a session in its event log, until a final event, the session's end, or `close`.

    Args:
        log: The log that is read.
        key: Whose events.
        after: The event to start after; `None` for the oldest kept.
        alive: Says whether the session still lives.
        shows: Which streams are shown.
        follows_one: Whether one stream is shown, so that its final event is the end.
        lost: The last messages of a reader that follows one stream, where the bounds have evicted what it was to
            read next; without any it goes on with the oldest event kept.
        tend: Is called every now and then while there is nothing to read.
        polled: Whether its client knows that it is to come back where the stream goes on (MCP 2025-11-25,
            basic/transports).
    """

    def __init__(
        self,
        log: EventLog,
        key: str,
        *,
        after: str | None,
        alive: Alive,
        shows: Callable[[str], bool],
        follows_one: bool = False,
        lost: Sequence[Mapping[str, Any]] = (),
        tend: Tend | None = None,
        polled: bool = False,
    ) -> None:
        self.key = key
        self._follows_one = follows_one
        self._log = log
        self._after = after
        self._alive = alive
        self._shows = shows
        self._lost = lost
        self._tend = tend
        self._polled = polled
        self._closed = False
        self._abandoned = False
        self._goes_on = False
        self._waiting: asyncio.Future[bool] | None = None

    @property
    def ends_with_a_call(self) -> bool:
        """Whether a call that runs in this process ends what is read."""
        return self._follows_one and self._tend is None

    def close(self, *, at_once: bool = False, goes_on: bool = False) -> None:
        """See `FrameReader.close`; `goes_on`: the stream does not end, and its client is to come back."""
        self._closed = True
        self._abandoned = self._abandoned or at_once
        self._goes_on = self._goes_on or goes_on
        if self._waiting is not None:
            self._waiting.cancel()

    async def frames(self, keepalive: float) -> AsyncGenerator[Frame | None]:
        """See `FrameReader.frames`.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        now = asyncio.get_running_loop().time
        due = now() + keepalive
        tend_at = now()
        woken = False
        while not self._abandoned:
            if self._lost and await self._evicted():
                for message in self._lost:
                    yield Frame(None, message)
                return
            events = await self._log.read(self.key, self._after)
            for event in events:
                self._after = event.id
                if self._shows(event.stream):
                    yield Frame(event.id, event.message)
                    due = now() + keepalive
                    if self._abandoned:
                        break
                    if event.final and self._follows_one:
                        return
            if events:
                woken = False
                continue
            if self._closed:
                if self._goes_on and self._polled:
                    yield Frame(None, None)
                break
            if self._tend is not None and now() >= tend_at:
                tend_at = now() + _TEND_SECONDS
                if await self._tend(self._after):
                    continue
            # Woken for nothing: the session may have ended, here or elsewhere. Then we are closed.
            ended = woken and not await self._alive(self.key)
            pause = due if self._tend is None else min(due, tend_at)
            woken = await self._wait(None if ended else max(0.0, pause - now()))
            if not woken and now() >= due:
                yield None
                due = now() + keepalive

    async def _evicted(self) -> bool:
        """Say whether the event to start after is no longer kept, and so perhaps not those that followed it."""
        oldest = await self._log.read(self.key, None, limit=1)
        after = EventId.parse(self._after) if self._after is not None else None
        kept_from = EventId.parse(oldest[0].id) if oldest else None
        return after is not None and kept_from is not None and kept_from.number > after.number

    async def _wait(self, keepalive: float | None) -> bool:
        if self._closed:
            return True
        if keepalive is None:
            self._waiting = asyncio.get_running_loop().create_future()
        else:
            self._waiting = asyncio.ensure_future(self._log.wait(self.key, self._after, keepalive))
        try:
            return await self._waiting
        except asyncio.CancelledError:
            if self._closed and self._waiting.cancelled():
                return True
            self._waiting.cancel()
            raise
        finally:
            self._waiting = None


def just_before(event_id: str) -> str | None:
    """Return an id to start after so that this event is the first one read."""
    found = EventId.parse(event_id)
    if found is None or found.number <= 1:
        return None
    return str(EventId(found.number - 1, found.session, found.stream))
