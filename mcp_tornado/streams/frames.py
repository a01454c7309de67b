"""Frames on their way to one connection, and the queue that they wait in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

_QUEUE_LENGTH: Final = 64
"""How many frames wait for a slow client before whoever sends them waits too."""


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
