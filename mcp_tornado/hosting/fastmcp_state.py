"""What FastMCP's servers keep for their clients, kept with our sessions: the same in every process.

A FastMCP server keeps it in a key-value store, whose keys say whose a value is:

    <session>:<name>       `ctx.set_state`, and which components `ctx.enable_components` and its like show. The session
                           is ours, and keeps the value to its end; or one that FastMCP has made up for a request that
                           stands alone, and the value ends with the request.
    session:<user>:<id>    a session of FastMCP's `SessionProvider`, or a user's, which outlive requests: the value is
    user:<user>:<name>     kept like the state behind a handle.

So nothing that one client keeps is ever found by another.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final, SupportsFloat

from mcp_tornado.hosting.context import RequestContext, current_context
from mcp_tornado.sessions import ErrorCode, Session, SessionError
from mcp_tornado.sessions.named import delete_named, find_named, put_named, update_named

_OUTLIVING: Final = frozenset({"session", "user"})
_RULES: Final = "_visibility_rules"
"""Which components a client is shown: read, many times, by whatever is listed or called."""

Value = dict[str, Any]


class FastMCPState:
    """The `session_state_store` of a FastMCP server: what the `AsyncKeyValue` of the package `key_value` asks for.

    Values live as long as what they belong to. FastMCP asks for a day: a client that has been here for longer keeps
    what it has.

    What is kept outside of our requests, where the same server is used in the same process in another way, stays in
    the memory of the process, as without us.

    Args:
        server: The server's name among those that are served together, in every process the same.
    """

    def __init__(self, server: str) -> None:
        self._server = server

    async def get(self, key: str, *, collection: str | None = None) -> Value | None:
        """Return the newest value, a copy; `None` where there is none.

        The rules of visibility are those that the request has seen so far.

        Raises:
            SessionError: The session has ended; `STORE_UNAVAILABLE`.
        """
        here = current_context()
        if here is None:
            return await self._memory.get(key, collection=collection)
        owner, _, name = key.partition(":")
        if owner in _OUTLIVING:
            record = await find_named(here.manager, self._record(key))
            if record is None:
                return None
            here.found.add(key)
            return dict(record.state)
        session = _session_of(owner, here)
        if session is None:
            return copy.deepcopy(self._values(here.kept.get(owner, {})).get(name))
        if name != _RULES:
            session = await _newest(owner, here)
        return copy.deepcopy(self._values(session.server_state).get(name))

    async def put(
        self, key: str, value: Mapping[str, Any], *, collection: str | None = None, ttl: SupportsFloat | None = None
    ) -> None:
        """Keep a value; what is kept under other keys meanwhile is not lost.

        A session of FastMCP's that this request has found and that another one has ended is not brought back.

        Raises:
            StateTooLarge: It would be more than `sessions.max_state_bytes`.
            SessionError: The session has ended; there are too many; `STORE_UNAVAILABLE`.
        """
        here = current_context()
        if here is None:
            await self._memory.put(key, value, collection=collection, ttl=ttl)
            return
        owner, _, name = key.partition(":")
        change = partial(self._put, name, dict(value))
        if owner in _OUTLIVING:
            record = self._record(key)
            if key in here.found:
                await update_named(here.manager, record, dict(value))
            else:
                await put_named(here.manager, record, dict(value), client=here.client(), principal=here.principal)
                here.found.add(key)
        elif _session_of(owner, here) is not None:
            here.saw(await here.manager.update_server_state(owner, change))
        else:
            state = copy.deepcopy(here.kept.get(owner, {}))
            change(state)
            here.kept[owner] = here.manager.checked_state(state)

    async def delete(self, key: str, *, collection: str | None = None) -> bool:
        """Remove a value; say whether there was one.

        Raises:
            SessionError: The session has ended; `STORE_UNAVAILABLE`.
        """
        here = current_context()
        if here is None:
            return await self._memory.delete(key, collection=collection)
        owner, _, name = key.partition(":")
        if owner in _OUTLIVING:
            here.found.discard(key)
            return await delete_named(here.manager, self._record(key))
        if _session_of(owner, here) is None:
            return self._values(here.kept.get(owner, {})).pop(name, None) is not None
        if name not in self._values((await _newest(owner, here)).server_state):
            return False
        here.saw(await here.manager.update_server_state(owner, lambda state: self._values(state).pop(name, None)))
        return True

    async def ttl(self, key: str, *, collection: str | None = None) -> tuple[Value | None, float | None]:
        """Return a value, and `None`: it ends with what it belongs to."""
        return await self.get(key, collection=collection), None

    async def get_many(self, keys: Sequence[str], *, collection: str | None = None) -> list[Value | None]:
        """Do what `get` does, for several keys."""
        return [await self.get(key, collection=collection) for key in keys]

    async def ttl_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[tuple[Value | None, float | None]]:
        """Do what `ttl` does, for several keys."""
        return [await self.ttl(key, collection=collection) for key in keys]

    async def put_many(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        """Do what `put` does, for several keys."""
        for key, value in zip(keys, values, strict=True):
            await self.put(key, value, collection=collection, ttl=ttl)

    async def delete_many(self, keys: Sequence[str], *, collection: str | None = None) -> int:
        """Do what `delete` does, for several keys; say how many there were."""
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


def _session_of(owner: str, here: RequestContext) -> Session | None:
    return here.session if here.session is not None and here.session.key == owner else None


async def _newest(key: str, here: RequestContext) -> Session:
    session = await here.manager.find(key)
    if session is None:
        raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended")
    here.saw(session)
    return session


def _with_new_rule(kept: list[Value], rules: list[Value]) -> list[Value]:
    """Return the rules that are to be kept from now on.

    FastMCP adds one rule, the last, to those that it has read; or it wants to have none any more. By now others may
    have added theirs. The last rule about the same components is the one that counts.
    """
    if not rules:
        return []
    new = rules[-1]
    return [rule for rule in kept if {**rule, "enabled": None} != {**new, "enabled": None}] + [new]
