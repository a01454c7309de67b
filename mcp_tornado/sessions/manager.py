"""The rules of sessions: who gets one, how long it lives, how it changes, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Literal

from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions.encoding import decode_stored, encode, encode_stored
from mcp_tornado.sessions.errors import (
    DuplicateSession,
    ErrorCode,
    RevisionConflict,
    SessionError,
    StateTooLarge,
)
from mcp_tornado.sessions.guard import StoreGuard
from mcp_tornado.sessions.ids import is_well_formed, named_key, new_session_id, session_key, short_key
from mcp_tornado.sessions.model import HANDLE_VERSION, ClientInfo, Session
from mcp_tornado.sessions.store import Clock, SessionStore

_log = get_logger(__name__)

_CREATE_ATTEMPTS: Final = 3
_UPDATE_ATTEMPTS: Final = 1000
"""Every failed attempt is somebody else's success, so this only ends what would never end."""
_SWEEP_BATCH: Final = 1000
_SWEEP_LIMIT: Final = 30.0
"""Seconds one batch of a sweep may take: nobody waits for it, so it may be slow."""
_TOUCH_SHARE: Final = 10
"""A touch interval is at most this part of the idle timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """How long sessions live and how many there may be.

    Times are in seconds. `lifetime`, `max_sessions` and `max_per_principal` of 0 mean: no limit.
    """

    idle_timeout: float = 3600
    lifetime: float = 604_800
    touch_interval: float = 30
    max_sessions: int = 100_000
    max_per_principal: int = 0
    max_state_bytes: int = 65_536


class SessionManager:
    """Creates, validates, refreshes, changes and ends sessions in a store.

    It alone decides what a client is told of expiry. Operations raise `SessionError` with the code the client is
    to see; where the store fails, that code is `STORE_UNAVAILABLE`.
    """

    def __init__(self, store: SessionStore, rules: SessionRules, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._guard = StoreGuard(metrics)
        self._rules = rules
        self._clock = clock
        self._metrics = metrics
        self._idle = timedelta(seconds=rules.idle_timeout)
        self._touch = timedelta(seconds=min(rules.touch_interval, rules.idle_timeout / _TOUCH_SHARE))

    @property
    def keepalive_interval(self) -> float:
        """Seconds after which a session in use should be refreshed again, so that it does not expire meanwhile."""
        shortest = min(1.0, self._rules.idle_timeout / _TOUCH_SHARE)
        return max(self._touch.total_seconds(), shortest)

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
        """Make and store a new session; return its id, which is nowhere else, and the session.

        The caps are checked before the session is stored: several processes that make sessions at the same moment
        can exceed them by as many.

        Args:
            client: Who asks for it.
            protocol_version: The revision that was negotiated.
            client_params: See `Session.client_params`.
            principal: Who authenticated.
            initialized: See `Session.initialized`.
            session_id: The id, where it was made before (see `new_id`).
            server_state: See `Session.server_state`; `None` is empty.

        Raises:
            SessionError: `SESSION_LIMIT_REACHED` (503, or 429 for the cap per principal),
                `SESSION_CREATION_FAILED`, `STORE_UNAVAILABLE`.
        """
        await self._check_caps(principal)
        for _ in range(1 if session_id is not None else _CREATE_ATTEMPTS):
            new_id = session_id if session_id is not None else self.new_id()
            try:
                session = await self._insert(
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
        """Return an id for a session that is to be made; nothing is stored.

        Raises:
            SessionError: `SESSION_CREATION_FAILED`.
        """
        try:
            return new_session_id()
        except (NotImplementedError, OSError) as error:  # the operating system has no random numbers
            raise SessionError(ErrorCode.SESSION_CREATION_FAILED) from error

    async def _insert(self, key: str, **fields: Any) -> Session:
        """Store a new session with these fields.

        Raises:
            DuplicateSession: The key is taken.
            SessionError: `STORE_UNAVAILABLE`.
        """
        now = self._clock()
        session = Session(
            key=key,
            created_at=now,
            last_seen_at=now,
            expires_at=self._expiry(created_at=now, seen_at=now),
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

    async def create_handle(self, *, client: ClientInfo, principal: str | None = None) -> tuple[str, Session]:
        """Make a state handle: like a session in all but that no client can use it as one.

        Returns:
            The handle, which is nowhere else, and its record.

        Raises:
            SessionError: See `create`.
        """
        return await self.create(
            client=client, protocol_version=HANDLE_VERSION, client_params={}, principal=principal, initialized=True
        )

    async def open_handle(self, handle: str, *, principal: str | None = None) -> Session:
        """Return the live record of a state handle, and keep it alive as `refresh` does.

        Raises:
            SessionError: `SESSION_ID_MALFORMED`, `SESSION_NOT_FOUND` (also where it is another principal's, or
                the id of a session), `SESSION_EXPIRED`, `STORE_UNAVAILABLE`.
        """
        session = await self._look_up(handle, principal, is_handle=True)
        if not await self.refresh(session):
            raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended")
        return session

    async def find_named(self, name: str) -> Session | None:
        """Return the live record that a server keeps under a name, and keep it alive as `refresh` does.

        Whoever knows the name may have it: it must say whose it is.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        session = await self.find(named_key(name))
        return session if session is not None and await self.refresh(session) else None

    async def put_named(
        self, name: str, state: dict[str, Any], *, client: ClientInfo, principal: str | None = None
    ) -> None:
        """Keep a state under a name of the server's choice, in place of what was there.

        It lives like the state behind a handle, and counts as one.

        Raises:
            StateTooLarge: See `update_state`.
            SessionError: `SESSION_LIMIT_REACHED`, `SESSION_CONFLICT`, `STORE_UNAVAILABLE`.
        """
        key, checked = named_key(name), self.checked_state(state)
        for _ in range(_CREATE_ATTEMPTS):
            try:
                await self._replace_state(key, checked)
                return
            except SessionError as error:
                if error.code is not ErrorCode.SESSION_NOT_FOUND:
                    raise
            await self._check_caps(principal)
            try:
                await self._insert(
                    key,
                    client=client,
                    principal=principal,
                    protocol_version=HANDLE_VERSION,
                    initialized=True,
                    state=checked,
                )
                return
            except DuplicateSession:
                # Somebody was faster; or it has expired, and was not swept yet.
                if await self.find(key) is None:
                    await self._guard.run("delete", self._store.delete(key))
        raise SessionError(ErrorCode.SESSION_CONFLICT)

    async def update_named(self, name: str, state: dict[str, Any]) -> None:
        """Keep a state in place of what is there under a name.

        Raises:
            StateTooLarge: See `update_state`.
            SessionError: `SESSION_NOT_FOUND`: nothing is there any more; see `update`.
        """
        await self._replace_state(named_key(name), self.checked_state(state))

    async def _replace_state(self, key: str, checked: dict[str, Any]) -> None:
        await self.update(key, lambda _: {"state": checked})

    async def delete_named(self, name: str) -> bool:
        """Remove what is kept under a name; say whether there was something.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        return await self.terminate(named_key(name))

    async def validate(self, session_id: str, *, principal: str | None = None) -> Session:
        """Return the live session of an id, with one read of the store.

        Raises:
            SessionError: `SESSION_ID_MALFORMED`, `SESSION_NOT_FOUND` (also where the session is another
                principal's, or the id is a state handle), `SESSION_EXPIRED`, `STORE_UNAVAILABLE`.
        """
        try:
            session = await self._look_up(session_id, principal, is_handle=False)
        except SessionError as error:
            # That a session is somebody else's stands in the log only.
            outcome = "unknown" if error.code is ErrorCode.SESSION_NOT_FOUND else error.reason
            self._metrics.session_validations.labels(outcome).inc()
            raise
        self._metrics.validation_ok.inc()
        return session

    async def _look_up(self, session_id: str, principal: str | None, *, is_handle: bool) -> Session:
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
        """Keep a session alive, writing only when the last write is older than the touch interval.

        Returns:
            Whether the session is alive; `False` says that it ended meanwhile.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        now = self._clock()
        if now - session.last_seen_at < self._touch:
            return True
        expires_at = self._expiry(created_at=session.created_at, seen_at=now)
        if await self._guard.run("touch", self._store.touch(session.key, now, expires_at)):
            _log.debug("session.refreshed", session=short_key(session.key))
            return True
        # A touch is also refused where another process has just written a later one.
        return await self.find(session.key) is not None

    async def find(self, key: str) -> Session | None:
        """Return the live session of a key, or `None`.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        session = await self._guard.run("get", self._store.get(key))
        return session if session is not None and session.expires_at > self._clock() else None

    async def terminate(self, key: str, reason: str = "deleted") -> bool:
        """End a session with its events; say whether there was one.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        existed = await self._guard.run("delete", self._store.delete(key))
        if existed:
            self._metrics.sessions_closed.labels(reason).inc()
            _log.info("session.terminated", session=short_key(key), reason=reason)
        return existed

    async def drop_mailbox(self, key: str) -> None:
        """Remove the events of a process, whose key begins with `@`.

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
            key: Which session.
            change: Gets the session as it is and returns new values of some fields, in the form of
                `Session.to_dict`; an empty mapping leaves it alone. It may be called several times.
            expected_revision: Fail where the session has another revision; `None` tries until it succeeds.

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
                # Let the one who was faster go on before the next try.
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
            key: Which session.
            change: Changes the dict it is given in place; it may be called several times, each time with a
                copy of the newest state.
            expected_revision: See `update`.

        Raises:
            StateTooLarge: The new state is larger than the rules allow.
            SessionError: See `update`.
        """
        return await self.update(key, partial(self._changed, "state", change), expected_revision=expected_revision)

    async def update_server_state(self, key: str, change: Callable[[dict[str, Any]], object]) -> Session:
        """Change what the server keeps in a session, as `update_state` does with the application's state.

        It may be as large as that one, beside it.

        Raises:
            StateTooLarge: The new state is larger than the rules allow.
            SessionError: See `update`.
        """
        return await self.update(key, partial(self._changed, "server_state", change))

    def checked_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state as JSON has it, so that every store keeps the same; a copy.

        Raises:
            StateTooLarge: It is larger than the rules allow.
            TypeError, ValueError: It is no JSON.
        """
        size = len(encode(state))
        if size > self._rules.max_state_bytes:
            raise StateTooLarge(
                f"the session's state would be {size} bytes long, sessions.max_state_bytes allows "
                f"{self._rules.max_state_bytes}"
            )
        return decode_stored(encode_stored(state))

    def _changed(
        self, field: Literal["state", "server_state"], change: Callable[[dict[str, Any]], object], session: Session
    ) -> Mapping[str, Any]:
        state: dict[str, Any] = decode_stored(encode_stored(getattr(session, field)))
        change(state)
        return {field: self.checked_state(state)}

    async def cleanup(self) -> int:
        """Remove every expired session, in batches, letting others run in between; say how many.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        removed = 0
        while True:
            count = await self._guard.run("sweep", self._store.sweep(self._clock(), _SWEEP_BATCH), limit=_SWEEP_LIMIT)
            removed += count
            if count:
                self._metrics.sessions_closed.labels("expired").inc(count)
            if count < _SWEEP_BATCH:
                return removed
            await asyncio.sleep(0)

    async def count(self, principal: str | None = None) -> int:
        """Count the live sessions: all of them, or one principal's.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        return await self._guard.run("count", self._store.count(principal))

    async def page(self, after: str | None = None, limit: int = 100) -> list[Session]:
        """Return live sessions in key order, at most `limit`, from the key after `after` on.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        return await self._guard.run("page", self._store.page(after, limit))

    async def ping(self) -> None:
        """Return if the store answers.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._guard.run("ping", self._store.ping())

    def _expiry(self, *, created_at: datetime, seen_at: datetime) -> datetime:
        # One touch interval more than the timeout: a session that was seen right after a write, and so was not
        # written again, must still live its whole idle timeout.
        expires_at = seen_at + self._idle + self._touch
        if self._rules.lifetime:
            return min(expires_at, created_at + timedelta(seconds=self._rules.lifetime))
        return expires_at

    async def _check_caps(self, principal: str | None) -> None:
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
