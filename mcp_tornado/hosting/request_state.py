"""`requestState` (MCP 2026-07-28, multi-round requests): any process opens what any other has sealed.

A server of the SDK, or of FastMCP, that was given no keys seals it with one that ends with the process: the next round
is refused where it arrives at another process, or after a restart.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeGuard

from mcp.server.lowlevel.server import Server
from mcp.server.request_state import (
    AESGCMRequestStateCodec,
    InvalidRequestState,
    RequestStateBoundary,
    RequestStateCodec,
    RequestStateSecurity,
)

from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, SessionError
from mcp_tornado.sessions.guard import STORE_TIMEOUT_SECONDS

_log = get_logger(__name__)

KEPT_KEY: Final = "@request-state-keys"
"""The log in which the key is kept that was made here. Its newest event, which is always kept, holds it."""

_STREAM: Final = "keys"
_KEY_BYTES: Final = 32
_MAKING: Final = "request-state-keys"
"""The lease of the process that makes the key."""
_MAKING_SECONDS: Final = 4 * STORE_TIMEOUT_SECONDS
"""Longer than its holder can take to look, and to store what it made."""
_AGAIN_SECONDS: Final = 0.05
"""How often it is looked whether another process has made the key."""
_LOOK_SECONDS: Final = 600.0
"""How often it is looked which key the store has. Where it lost the key, and a process that started since made another,
the processes disagree until then. By default what was sealed is good for as long."""


class SharedKeys:
    """The keys that all processes have.

    Args:
        log: Where the key is kept, if none are given.
        process: The name of this process.
        given: The keys, each of at least 32 bytes: the first one seals, all open. Empty: one key is made for all
            processes, once.
    """

    def __init__(self, log: EventLog, process: str, given: Sequence[str]) -> None:
        self._log = log
        self._process = process
        self._are_given = bool(given)
        self._keys = tuple(given)
        self._codec: AESGCMRequestStateCodec

    async def start(self) -> None:
        """Have the keys.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if not self._are_given:
            self._keys = (await self._agree_on(secrets.token_urlsafe(_KEY_BYTES)),)
        self._codec = AESGCMRequestStateCodec(self._keys)

    async def keep(self) -> None:
        """See to it until cancelled that the key stays the one of all processes, and stays in the store."""
        while not self._are_given:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.look()
            except SessionError:
                continue  # the store is away: at the next turn
            except Exception:
                _log.exception("request_state.look_failed")

    async def look(self) -> None:
        """Take the key that is in the store now, or put ours there again where the store has lost it.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        key = await self._agree_on(self._keys[0])
        if key != self._keys[0]:
            hint = "the store had lost it; what was sealed with the former key is still opened here"
            _log.warning("request_state.key_changed", hint=hint)
            self._keys = (key, *(former for former in self._keys if former != key))
            self._codec = AESGCMRequestStateCodec(self._keys)
        # A store removes the log of a process some time after its last event, though not before a day has passed.
        await self._put(key)

    def seal(self, payload: bytes) -> str:
        """Seal with the first key."""
        return self._codec.seal(payload)

    def unseal(self, token: str) -> bytes:
        """Open what any of the keys has sealed.

        Raises:
            InvalidRequestState: None of them has.
        """
        return self._codec.unseal(token)

    async def _agree_on(self, ours: str) -> str:
        """Return the key that is in the store; where there is none, ours is, from now on."""
        while (key := await self._stored()) is None:
            if not await self._log.claim(_MAKING, self._process, _MAKING_SECONDS):
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            if await self._stored() is None:  # nobody was faster
                await self._put(ours)
                _log.info("request_state.key_stored")
            await self._log.release(_MAKING, self._process)
        return key

    async def _stored(self) -> str | None:
        key = after = None
        while events := await self._log.read(KEPT_KEY, after):
            after, key = events[-1].id, (events[-1].message or {}).get("key")
        return key

    async def _put(self, key: str) -> None:
        await self._log.append(KEPT_KEY, _STREAM, {"key": key})


class _SharedCodec:
    """Seals with the shared keys; opens what they have sealed, or what the server's own keys have."""

    def __init__(self, shared: SharedKeys, own: RequestStateCodec) -> None:
        self._shared = shared
        self._own = own

    def seal(self, payload: bytes) -> str:
        """See `RequestStateCodec.seal`."""
        return self._shared.seal(payload)

    def unseal(self, token: str) -> bytes:
        """See `RequestStateCodec.unseal`."""
        try:
            return self._shared.unseal(token)
        except InvalidRequestState:
            return self._own.unseal(token)


@asynccontextmanager
async def shared_request_state(
    server: Server[Any], log: EventLog, process: str, keys: Sequence[str]
) -> AsyncGenerator[None]:
    """Have a server seal `requestState` with keys that all processes have; on leaving, as it did before.

    How long a state is good, for which service and for whom, stays as the server has it. A codec that is not the
    SDK's is left alone, and so is a server that seals nothing.

    Args:
        server: The server.
        log: See `SharedKeys`.
        process: See `SharedKeys`.
        keys: See `SharedKeys`.

    Raises:
        SessionError: `STORE_UNAVAILABLE`.
    """
    before = list(server.middleware)
    if not any(_seals_as_the_sdk_does(middleware) for middleware in before):
        yield
        return
    shared = SharedKeys(log, process, keys)
    await shared.start()
    server.middleware[:] = [
        _sealing_with(shared, middleware) if _seals_as_the_sdk_does(middleware) else middleware for middleware in before
    ]
    keeper = asyncio.create_task(shared.keep())
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        server.middleware[:] = before


def _seals_as_the_sdk_does(middleware: object) -> TypeGuard[RequestStateBoundary]:
    # What a boundary works with is private, here and below: the SDK only has one put another boundary in its place.
    return (
        type(middleware) is RequestStateBoundary and type(middleware._security.codec) is AESGCMRequestStateCodec  # pyright: ignore[reportPrivateUsage]
    )


def _sealing_with(shared: SharedKeys, boundary: RequestStateBoundary) -> RequestStateBoundary:
    security = boundary._security  # pyright: ignore[reportPrivateUsage]
    return RequestStateBoundary(
        RequestStateSecurity(
            codec=_SharedCodec(shared, security.codec), ttl=security.ttl, bind_principal=security.bind_principal
        ),
        default_audience=boundary._audience,  # pyright: ignore[reportPrivateUsage]
    )
