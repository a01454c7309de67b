"""The session manager, which creates, validates, refreshes, changes and ends sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final, Literal

from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions.encoding import decode_stored, encode, encode_stored
from mcp_tornado.sessions.errors import DuplicateSession, ErrorCode, RevisionConflict, SessionError, StateTooLarge
from mcp_tornado.sessions.guard import StoreGuard
from mcp_tornado.sessions.ids import is_well_formed, new_session_id, session_key, short_key
from mcp_tornado.sessions.model import ClientInfo, Session
from mcp_tornado.sessions.rules import SessionRules
from mcp_tornado.sessions.store import Clock, SessionStore

_log = get_logger(__name__)

_CREATE_ATTEMPTS: Final = 3
_UPDATE_ATTEMPTS: Final = 1000
"""An attempt fails only if a concurrent update succeeds, so this bound only stops an endless loop."""
_SWEEP_BATCH_SIZE: Final = 1000
_SWEEP_TIMEOUT_SECONDS: Final = 30.0
"""Timeout of one batch of a sweep. It is longer than that of other operations: no client waits for a sweep."""


class SessionManager:
    """Creates, validates, refreshes, changes and ends sessions in a store.

    Only the manager tells a client that its session has expired. Operations raise `SessionError` with the code
    for the client. If the store fails, that code is `STORE_UNAVAILABLE`.
    """

    def __init__(self, store: SessionStore, rules: SessionRules, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._guard = StoreGuard(metrics)
        self._rules = rules
        self._clock = clock
        self._metrics = metrics
        self._touch_interval = timedelta(seconds=rules.effective_touch_interval)

    @property
    def keepalive_interval(self) -> float:
        """See `SessionRules.keepalive_interval`."""
        return self._rules.keepalive_interval

    async def create(
        self,
        *,
        client: ClientInfo,
        protocol_version: str,
        client_params: Mapping[str, Any],
        principal: str | None = None,
        initialized: bool = False,
        session_id: str | None = None,
        server_state: Mapping[str, Any] | None = None,
    ) -> tuple[str, Session]:
        """Create and store a session.

        The caps are checked before the session is stored. Calls that run at the same time, in one process or in
        several, can each pass this check and so exceed a cap.

        Args:
            client: The client that asks for the session.
            protocol_version: The negotiated revision of MCP.
            client_params: See `Session.client_params`.
            principal: The authenticated principal, or `None`.
            initialized: See `Session.initialized`.
            session_id: An id from `new_id`; `None` creates one.
            server_state: See `Session.server_state`; `None` means empty.

        Returns:
            The id, which is stored nowhere, and the session.

        Raises:
            SessionError: `SESSION_LIMIT_REACHED` (503, or 429 for the cap per principal),
                `SESSION_CREATION_FAILED`, `STORE_UNAVAILABLE`.
        """
        await self.check_caps(principal)
        for _ in range(1 if session_id is not None else _CREATE_ATTEMPTS):
            new_id = session_id if session_id is not None else self.new_id()
            try:
                session = await self.insert(
                    session_key(new_id),
                    client=client,
                    principal=principal,
                    protocol_version=protocol_version,
                    client_params=client_params,
                    initialized=initialized,
                    server_state=server_state or {},
                )
            except DuplicateSession:
                continue
            return new_id, session
        raise SessionError(ErrorCode.SESSION_CREATION_FAILED)

    def new_id(self) -> str:
        """Return an id for a new session, without storing anything.

        Raises:
            SessionError: `SESSION_CREATION_FAILED`.
        """
        try:
            return new_session_id()
        except (NotImplementedError, OSError) as error:  # the operating system has no source of random numbers
            raise SessionError(ErrorCode.SESSION_CREATION_FAILED) from error

    async def insert(self, key: str, **fields: Any) -> Session:
        """Store a new session under a key, without checking the caps.

        Args:
            key: The key in the store.
            fields: The fields of `Session`, except `key` and the times.

        Raises:
            DuplicateSession: The key is taken.
            SessionError: `STORE_UNAVAILABLE`.
        """
        now = self._clock()
        session = Session(
            key=key,
            created_at=now,
            last_seen_at=now,
            expires_at=self._rules.expires_at(created_at=now, seen_at=now),
            **fields,
        )
        await self._guard.run("create", self._store.create(session))
        self._metrics.sessions_created.inc()
        _log.info(
            "session.created",
            session=short_key(session.key),
            kind="state" if session.is_handle else "session",
            protocol_version=session.protocol_version,
            client_name=session.client.name,
            client_version=session.client.version,
            remote_addr=session.client.remote_addr,
        )
        return session

    async def validate(self, session_id: str, *, principal: str | None = None) -> Session:
        """Return the live session with an id. This reads the store once.

        Raises:
            SessionError: `SESSION_ID_MALFORMED`, `SESSION_NOT_FOUND` (also if the session belongs to another
                principal, or if the id is a state handle), `SESSION_EXPIRED`, `STORE_UNAVAILABLE`.
        """
        try:
            session = await self.look_up(session_id, principal=principal, is_handle=False)
        except SessionError as error:
            # Only the log tells another principal's session from an unknown one.
            outcome = "unknown" if error.code is ErrorCode.SESSION_NOT_FOUND else error.reason
            self._metrics.session_validations.labels(outcome).inc()
            raise
        self._metrics.validation_ok.inc()
        return session

    async def look_up(self, session_id: str, *, principal: str | None, is_handle: bool) -> Session:
        """Return the live session with an id, or the live record of a state handle. This reads the store once.

        Args:
            session_id: The id or the handle.
            principal: The authenticated principal, or `None`. It must be that of the session.
            is_handle: Whether to accept state handles only, or sessions only.

        Raises:
            SessionError: `SESSION_ID_MALFORMED`, `SESSION_NOT_FOUND`, `SESSION_EXPIRED`, `STORE_UNAVAILABLE`.
        """
        if not is_well_formed(session_id):
            raise SessionError(ErrorCode.SESSION_ID_MALFORMED, reason="malformed")
        key = session_key(session_id)
        session = await self._guard.run("get", self._store.get(key))
        if session is None:
            raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="unknown")
        if session.is_handle is not is_handle:
            raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="other_kind")
        if session.principal != principal:
            raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="other_principal")
        if session.expires_at <= self._clock():
            raise SessionError(ErrorCode.SESSION_EXPIRED, reason="expired")
        return session

    async def refresh(self, session: Session) -> bool:
        """Keep a session alive. This writes only if the last write is older than the touch interval.

        Returns:
            Whether the session is alive; `False` if it has ended since it was read.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        now = self._clock()
        if now - session.last_seen_at < self._touch_interval:
            return True
        expires_at = self._rules.expires_at(created_at=session.created_at, seen_at=now)
        if await self._guard.run("touch", self._store.touch(session.key, now, expires_at)):
            _log.debug("session.refreshed", session=short_key(session.key))
            return True
        # The store also refuses a touch if another process has just written a later one.
        return await self.find(session.key) is not None

    async def find(self, key: str) -> Session | None:
        """Return the live session with a key, or `None`.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        session = await self._guard.run("get", self._store.get(key))
        return session if session is not None and session.expires_at > self._clock() else None

    async def terminate(self, key: str, reason: str = "deleted") -> bool:
        """End a session and remove its events.

        Returns:
            Whether the session existed.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        existed = await self._guard.run("delete", self._store.delete(key))
        if existed:
            self._metrics.sessions_closed.labels(reason).inc()
            _log.info("session.terminated", session=short_key(key), reason=reason)
        return existed

    async def drop_mailbox(self, key: str) -> None:
        """Remove the mailbox of a process: the log with this key, which begins with `@`.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self.discard(key)

    async def discard(self, key: str) -> None:
        """Remove everything stored under a key, without counting or logging the end of a session.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._guard.run("delete", self._store.delete(key))

    async def update(
        self,
        key: str,
        change: Callable[[Session], Mapping[str, Any]],
        *,
        expected_revision: int | None = None,
    ) -> Session:
        """Change a live session by compare-and-set.

        Args:
            key: The key of the session.
            change: Takes the current session and returns new values for some fields, in the form of
                `Session.to_dict`. If the mapping is empty, nothing is written. It may be called several times.
            expected_revision: Fail if the session has another record revision; `None` retries until the update
                succeeds.

        Raises:
            SessionError: `SESSION_NOT_FOUND`, `SESSION_CONFLICT`, `STORE_UNAVAILABLE`.
        """
        for _ in range(_UPDATE_ATTEMPTS):
            session = await self.find(key)
            if session is None:
                raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended")
            if expected_revision is not None and session.revision != expected_revision:
                raise SessionError(ErrorCode.SESSION_CONFLICT)
            changes = change(session)
            if not changes:
                return session
            try:
                changed = await self._guard.run("update", self._store.update(key, changes, session.revision))
            except RevisionConflict:
                # Yield to the event loop, so that the task whose update succeeded goes on before the next attempt.
                await asyncio.sleep(0)
                continue
            if changed is None:
                raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended")
            return changed
        raise SessionError(ErrorCode.SESSION_CONFLICT)

    async def update_state(
        self, key: str, change: Callable[[dict[str, Any]], object], *, expected_revision: int | None = None
    ) -> Session:
        """Change the application's state of a session by compare-and-set.

        Args:
            key: The key of the session.
            change: Changes the given dict in place. It may be called several times, each time with a copy of the
                newest state.
            expected_revision: See `update`.

        Raises:
            StateTooLarge: The new state is larger than the rules allow.
            SessionError: See `update`.
        """
        return await self.update(
            key, partial(self._changed_field, "state", change), expected_revision=expected_revision
        )

    async def update_server_state(self, key: str, change: Callable[[dict[str, Any]], object]) -> Session:
        """Change `Session.server_state` as `update_state` changes the application's state.

        The limit of size is the same, and applies to each of the two separately.

        Raises:
            StateTooLarge: The new state is larger than the rules allow.
            SessionError: See `update`.
        """
        return await self.update(key, partial(self._changed_field, "server_state", change))

    def checked_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of a state as JSON types, so that every store keeps the same value.

        Raises:
            StateTooLarge: The state is larger than the rules allow.
            TypeError, ValueError: The state cannot be written as JSON.
        """
        size = len(encode(state))
        if size > self._rules.max_state_bytes:
            raise StateTooLarge(
                f"the session's state would be {size} bytes long; sessions.max_state_bytes allows "
                f"{self._rules.max_state_bytes}"
            )
        return decode_stored(encode_stored(state))

    def _changed_field(
        self, field: Literal["state", "server_state"], change: Callable[[dict[str, Any]], object], session: Session
    ) -> Mapping[str, Any]:
        state: dict[str, Any] = decode_stored(encode_stored(getattr(session, field)))
        change(state)
        return {field: self.checked_state(state)}

    async def cleanup(self) -> int:
        """Remove all expired sessions in batches, and yield to the event loop between two batches.

        Returns:
            The number of sessions that were removed.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        removed = 0
        while True:
            sweep = self._store.sweep(self._clock(), _SWEEP_BATCH_SIZE)
            count = await self._guard.run("sweep", sweep, timeout=_SWEEP_TIMEOUT_SECONDS)
            removed += count
            if count:
                self._metrics.sessions_closed.labels("expired").inc(count)
            if count < _SWEEP_BATCH_SIZE:
                return removed
            # Yield to the event loop between two batches: a store in memory does not.
            await asyncio.sleep(0)

    async def count(self, principal: str | None = None) -> int:
        """Return the number of live sessions: of all principals, or of the given one.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        return await self._guard.run("count", self._store.count(principal))

    async def page(self, after: str | None = None, limit: int = 100) -> list[Session]:
        """Return at most `limit` live sessions in key order, starting after the key `after` (`None`: at the first).

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        return await self._guard.run("page", self._store.page(after, limit))

    async def ping(self) -> None:
        """Check that the store answers.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._guard.run("ping", self._store.ping())

    async def check_caps(self, principal: str | None) -> None:
        """Check that the caps allow one more session of a principal.

        Raises:
            SessionError: `SESSION_LIMIT_REACHED` (503, or 429 for the cap per principal), `STORE_UNAVAILABLE`.
        """
        rules = self._rules
        if rules.max_sessions and await self.count() >= rules.max_sessions:
            raise SessionError(ErrorCode.SESSION_LIMIT_REACHED, reason="max_sessions")
        if principal is not None and rules.max_per_principal and await self.count(principal) >= rules.max_per_principal:
            raise SessionError(
                ErrorCode.SESSION_LIMIT_REACHED,
                "You have too many sessions open: end one first",
                status=429,
                reason="max_per_principal",
            )
