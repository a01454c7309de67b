"""`requestState` (MCP 2026-07-28, multi-round requests), sealed with keys that every process has.

A server of the SDK or of FastMCP that was given no keys seals `requestState` with a key of its own process. The next
round is then refused if it arrives at another process or after a restart. This module gives all processes the same key.
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
"""The log that stores the generated key. Its newest event, which is never evicted, holds the key."""

_STREAM: Final = "keys"
_KEY_BYTES: Final = 32
_GENERATION_LEASE: Final = "request-state-keys"
"""The lease of the process that generates the key."""
_GENERATION_LEASE_SECONDS: Final = 4 * STORE_TIMEOUT_SECONDS
"""Longer than the holder can need to read the store and to write the key."""
_POLL_SECONDS: Final = 0.05
"""Interval between two reads while another process generates the key."""
_REFRESH_SECONDS: Final = 600.0
"""Interval between two reads of the stored key, in seconds. If the store loses the key and a new process generates
another key, the older processes use the lost key for up to this time. A sealed state is also valid for 600 seconds by
default."""


class SharedKeys:
    """The sealing keys that all processes share.

    Args:
        log: Stores the generated key if no keys are configured.
        process: The name of this process.
        configured: The keys, each of at least 32 bytes. The first key seals; every key opens. If empty, one key is
            generated once for all processes.
    """

    def __init__(self, log: EventLog, process: str, configured: Sequence[str]) -> None:
        self._log = log
        self._process = process
        self._are_configured = bool(configured)
        self._keys = tuple(configured)
        self._codec: AESGCMRequestStateCodec

    async def start(self) -> None:
        """Load the keys, or generate the key if the store has none.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if not self._are_configured:
            self._keys = (await self._agree_on(secrets.token_urlsafe(_KEY_BYTES)),)
        self._codec = AESGCMRequestStateCodec(self._keys)

    async def run(self) -> None:
        """Refresh the key at intervals until cancelled, so that all processes keep the same key."""
        while not self._are_configured:
            await asyncio.sleep(_REFRESH_SECONDS)
            try:
                await self.refresh()
            except SessionError:
                continue  # the store is unavailable; the next turn tries again
            except Exception:
                _log.exception("request_state.look_failed")

    async def refresh(self) -> None:
        """Use the stored key from now on; if the store has lost it, store the key of this process again.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        key = await self._agree_on(self._keys[0])
        if key != self._keys[0]:
            hint = "the store had lost the key; this process still opens states that the former key has sealed"
            _log.warning("request_state.key_changed", hint=hint)
            self._keys = (key, *(former for former in self._keys if former != key))
            self._codec = AESGCMRequestStateCodec(self._keys)
        # A store removes such a log some time after its last event, but not before a day has passed.
        await self._put(key)

    def seal(self, payload: bytes) -> str:
        """Seal a payload with the first key."""
        return self._codec.seal(payload)

    def unseal(self, token: str) -> bytes:
        """Open a token that any of the keys has sealed.

        Raises:
            InvalidRequestState: None of the keys opens the token.
        """
        return self._codec.unseal(token)

    async def _agree_on(self, proposed: str) -> str:
        """Return the stored key; if there is none, store the proposed one."""
        while (key := await self._stored()) is None:
            if not await self._log.claim(_GENERATION_LEASE, self._process, _GENERATION_LEASE_SECONDS):
                await asyncio.sleep(_POLL_SECONDS)
                continue
            if await self._stored() is None:  # no other process has stored one meanwhile
                await self._put(proposed)
                _log.info("request_state.key_stored")
            await self._log.release(_GENERATION_LEASE, self._process)
        return key

    async def _stored(self) -> str | None:
        key = after = None
        while events := await self._log.read(KEPT_KEY, after):
            after, key = events[-1].id, (events[-1].message or {}).get("key")
        return key

    async def _put(self, key: str) -> None:
        await self._log.append(KEPT_KEY, _STREAM, {"key": key})


class _SharedCodec:
    """Seals with the shared keys; opens tokens of the shared keys and of the server's own keys."""

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
    """Make a server seal `requestState` with keys that all processes share; on exit, restore its own sealing.

    The lifetime, audience and principal of a state stay as the server has configured them. A server with a codec other
    than the SDK's, and a server that seals nothing, are not changed.

    Args:
        server: The server.
        log: See `SharedKeys`.
        process: See `SharedKeys`.
        keys: See `SharedKeys`.

    Raises:
        SessionError: `STORE_UNAVAILABLE`.
    """
    before = list(server.middleware)
    if not any(_is_sdk_boundary(middleware) for middleware in before):
        yield
        return
    shared = SharedKeys(log, process, keys)
    await shared.start()
    server.middleware[:] = [
        _with_shared_keys(shared, middleware) if _is_sdk_boundary(middleware) else middleware for middleware in before
    ]
    refresher = asyncio.create_task(shared.run())
    try:
        yield
    finally:
        refresher.cancel()
        await asyncio.gather(refresher, return_exceptions=True)
        server.middleware[:] = before


def _is_sdk_boundary(middleware: object) -> TypeGuard[RequestStateBoundary]:
    # The parts of a boundary are private, here and below. The SDK supports only replacing the whole boundary.
    return (
        type(middleware) is RequestStateBoundary and type(middleware._security.codec) is AESGCMRequestStateCodec  # pyright: ignore[reportPrivateUsage]
    )


def _with_shared_keys(shared: SharedKeys, boundary: RequestStateBoundary) -> RequestStateBoundary:
    security = boundary._security  # pyright: ignore[reportPrivateUsage]
    return RequestStateBoundary(
        RequestStateSecurity(
            codec=_SharedCodec(shared, security.codec), ttl=security.ttl, bind_principal=security.bind_principal
        ),
        default_audience=boundary._audience,  # pyright: ignore[reportPrivateUsage]
    )
