"""The frames that are sent on one connection, and the queue that they wait in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

_MAX_QUEUED_FRAMES: Final = 64
"""Number of frames that may wait for a slow client before the sender waits too."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event.

    A frame with neither an id nor a message only carries the time after which the client should reconnect.
    """

    id: str | None
    """The event's id; `None` if the event is not in the log."""
    message: Mapping[str, Any] | None
    """The JSON-RPC message; `None` for a priming event, which has only an id."""


class FrameReader(Protocol):
    """A source of the frames of one connection."""

    def frames(self, keepalive: float) -> AsyncGenerator[Frame | None]:
        """Yield each frame as soon as there is one, and `None` whenever `keepalive` seconds pass without one."""
        ...

    def close(self, *, discard_pending: bool = False) -> None:
        """End the reading after the frames that are available now; `discard_pending` drops these too."""
        ...


class FrameQueue:
    """The frames that wait for one connection. If the client is slow, the sender waits too."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._closed = False
        self._complete = False
        self._changed: asyncio.Future[None] | None = None
        self._has_room: asyncio.Future[None] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the queue takes no more frames."""
        return self._closed

    def put(self, frame: Frame, *, last: bool = False) -> None:
        """Add a frame, if the queue is not closed; `last` ends the queue with it."""
        if not self._closed:
            self._frames.append(frame)
            self._complete = self._complete or last
            _wake(self._changed)

    async def wait_for_room(self) -> None:
        """Wait until fewer than `_MAX_QUEUED_FRAMES` frames wait for the client, or the queue is closed."""
        while len(self._frames) >= _MAX_QUEUED_FRAMES and not self._closed:
            if self._has_room is None or self._has_room.done():
                self._has_room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._has_room)

    async def frames(self, keepalive: float) -> AsyncGenerator[Frame | None]:
        """See `FrameReader.frames`."""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                _wake(self._has_room)
                yield frame
            if self._closed or self._complete:
                return
            self._changed = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(keepalive):
                    await self._changed
            except TimeoutError:
                yield None

    def close(self, *, discard_pending: bool = False) -> None:
        """See `FrameReader.close`."""
        self._closed = True
        if discard_pending:
            self._frames.clear()
        _wake(self._changed)
        _wake(self._has_room)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
