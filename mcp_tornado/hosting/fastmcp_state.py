"""The state that FastMCP servers keep for their clients, stored in the sessions: the same in every process.

A FastMCP server keeps this state in a key-value store. The form of a key says who owns the value:

    <session>:<name>       `ctx.set_state`, and the visibility rules of `ctx.enable_components` and similar methods. If
                           <session> is a stored session, the value lives as long as the session. Otherwise FastMCP has
                           invented the name for a request without a session, and the value ends with the request.
    session:<user>:<id>    A session of FastMCP's `SessionProvider`. It outlives requests: the value is stored like the
                           state behind a handle.
    user:<user>:<name>     State of a user. It is stored like the state behind a handle.

FastMCP makes the keys. With a key of the first form a client reaches only values of its own session. In the other
forms only the authenticated user separates clients. Without authentication `<user>` is the same for all clients: a
client that knows the id of another client's `SessionProvider` session can read and change that session.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final, SupportsFloat

from mcp_tornado.hosting.context import RequestContext, current_context
from mcp_tornado.sessions import ErrorCode, Session, SessionError
from mcp_tornado.sessions.named_records import delete_named, find_named, put_named, update_named

_OUTLIVING: Final = frozenset({"session", "user"})
_RULES: Final = "_visibility_rules"
"""The name of the rules that say which components a client sees. Every listing and every call reads them often."""

Value = dict[str, Any]


class FastMCPState:
    """The `session_state_store` of a FastMCP server: an `AsyncKeyValue` of the package `key_value`.

    A value lives as long as its owner. FastMCP asks for a lifetime of one day; that is ignored, so a client that stays
    longer keeps its state.

    If the same server object is also used outside of a request of mcp-tornado, that state stays in the memory of the
    process, as FastMCP does by itself.

    Args:
        server: The server's name among the servers that are served together; the same in every process.
    """

    def __init__(self, server: str) -> None:
        self._server = server

    async def get(self, key: str, *, collection: str | None = None) -> Value | None:
        """Return a copy of the newest value; `None` if there is none.

        The visibility rules are an exception: they are read from the session as this request has last seen it.

        Raises:
            SessionError: The session has ended; `STORE_UNAVAILABLE`.
        """
        context = current_context()
        if context is None:
            return await self._memory.get(key, collection=collection)
        owner, _, name = key.partition(":")
        if owner in _OUTLIVING:
            record = await find_named(context.manager, self._record(key))
            if record is None:
                return None
            context.found_records.add(key)
            return dict(record.state)
        session = _session_of(owner, context)
        if session is None:
            return copy.deepcopy(self._values(context.transient_state.get(owner, {})).get(name))
        if name != _RULES:
            session = await _newest(owner, context)
        return copy.deepcopy(self._values(session.server_state).get(name))

    async def put(
        self, key: str, value: Mapping[str, Any], *, collection: str | None = None, ttl: SupportsFloat | None = None
    ) -> None:
        """Store a value. Values that other requests store under other keys at the same time are not lost.

        If this request has found a session of FastMCP's and another request has ended it, it is not created again.

        Raises:
            StateTooLarge: The state would be larger than `sessions.max_state_bytes`.
            SessionError: The session has ended; the limit of sessions is reached; `STORE_UNAVAILABLE`.
        """
        context = current_context()
        if context is None:
            await self._memory.put(key, value, collection=collection, ttl=ttl)
            return
        owner, _, name = key.partition(":")
        change = partial(self._put, name, dict(value))
        if owner in _OUTLIVING:
            record = self._record(key)
            if key in context.found_records:
                await update_named(context.manager, record, dict(value))
            else:
                await put_named(
                    context.manager, record, dict(value), client=context.client(), principal=context.principal
                )
                context.found_records.add(key)
        elif _session_of(owner, context) is not None:
            context.note_session(await context.manager.update_server_state(owner, change))
        else:
            state = copy.deepcopy(context.transient_state.get(owner, {}))
            change(state)
            context.transient_state[owner] = context.manager.checked_state(state)

    async def delete(self, key: str, *, collection: str | None = None) -> bool:
        """Remove a value; return whether there was one.

        Raises:
            SessionError: The session has ended; `STORE_UNAVAILABLE`.
        """
        context = current_context()
        if context is None:
            return await self._memory.delete(key, collection=collection)
        owner, _, name = key.partition(":")
        if owner in _OUTLIVING:
            context.found_records.discard(key)
            return await delete_named(context.manager, self._record(key))
        if _session_of(owner, context) is None:
            return self._values(context.transient_state.get(owner, {})).pop(name, None) is not None
        if name not in self._values((await _newest(owner, context)).server_state):
            return False
        context.note_session(
            await context.manager.update_server_state(owner, lambda state: self._values(state).pop(name, None))
        )
        return True

    async def ttl(self, key: str, *, collection: str | None = None) -> tuple[Value | None, float | None]:
        """Return a value, and `None` as its lifetime: it ends with its owner."""
        return await self.get(key, collection=collection), None

    async def get_many(self, keys: Sequence[str], *, collection: str | None = None) -> list[Value | None]:
        """Do the same as `get` for several keys."""
        return [await self.get(key, collection=collection) for key in keys]

    async def ttl_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[tuple[Value | None, float | None]]:
        """Do the same as `ttl` for several keys."""
        return [await self.ttl(key, collection=collection) for key in keys]

    async def put_many(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        """Do the same as `put` for several keys."""
        for key, value in zip(keys, values, strict=True):
            await self.put(key, value, collection=collection, ttl=ttl)

    async def delete_many(self, keys: Sequence[str], *, collection: str | None = None) -> int:
        """Do the same as `delete` for several keys; return how many values there were."""
        return sum([await self.delete(key, collection=collection) for key in keys])

    @cached_property
    def _memory(self) -> Any:
        from key_value.aio.stores.memory import MemoryStore

        return MemoryStore()

    def _record(self, key: str) -> str:
        return f"fastmcp {self._server}\n{key}"

    def _values(self, state: Mapping[str, Any]) -> Value:
        return state.get(self._server, {})

    def _put(self, name: str, value: Value, state: dict[str, Any]) -> None:
        values: Value = state.setdefault(self._server, {})
        if name == _RULES:
            value = {**value, "value": _with_new_rule(values.get(name, {}).get("value", []), value["value"])}
        values[name] = value


def _session_of(owner: str, context: RequestContext) -> Session | None:
    return context.session if context.session is not None and context.session.key == owner else None


async def _newest(key: str, context: RequestContext) -> Session:
    session = await context.manager.find(key)
    if session is None:
        raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended")
    context.note_session(session)
    return session


def _with_new_rule(stored: list[Value], rules: list[Value]) -> list[Value]:
    """Return the stored rules with the new rule added.

    FastMCP passes the rules that it has read, followed by one new rule; or no rules, to remove them all. Other requests
    may have added rules meanwhile, which must not be lost. Of several rules for the same components the last one
    counts.
    """
    if not rules:
        return []
    new = rules[-1]
    return [rule for rule in stored if {**rule, "enabled": None} != {**new, "enabled": None}] + [new]
