"""The data of a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

HANDLE_VERSION: Final = "2026-07-28"
"""The `protocol_version` of the records of state handles: a revision of MCP that has no sessions."""


def to_microseconds(moment: datetime) -> int:
    """Return an aware datetime as whole microseconds since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """Return the aware UTC datetime that is `value` microseconds after the epoch."""
    return _EPOCH + timedelta(microseconds=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientInfo:
    """Information about the client of a session; a member is `None` if the client did not send it."""

    remote_addr: str | None = None
    user_agent: str | None = None
    name: str | None = None
    version: str | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Members that a newer version wrote and this version does not know."""

    def to_dict(self) -> dict[str, Any]:
        """Return the client information as JSON types."""
        return {
            **self.unknown,
            "remote_addr": self.remote_addr,
            "user_agent": self.user_agent,
            "name": self.name,
            "version": self.version,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClientInfo:
        """Return the client information from the form of `to_dict`; unknown members are kept."""
        rest = dict(data)
        return cls(
            remote_addr=rest.pop("remote_addr", None),
            user_agent=rest.pop("user_agent", None),
            name=rest.pop("name", None),
            version=rest.pop("version", None),
            unknown=rest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The data that any process needs to serve one session of one client.

    Do not change its mappings and sequences; change a session through `SessionManager`.
    """

    key: str
    """The key in the store (see `mcp_tornado.sessions.ids.session_key`), never the id."""
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    client: ClientInfo
    principal: str | None = None
    """The authenticated principal; `None` without authentication."""
    protocol_version: str
    client_params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """All params of the client's `initialize` request."""
    initialized: bool = False
    """Whether the client has sent `notifications/initialized`."""
    journal: Sequence[Mapping[str, Any]] = ()
    """Session-scoped requests (`method`, `params`) in order, compacted by `mcp_tornado.sessions.journal`."""
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The application's own JSON object."""
    server_state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """State that the framework of the hosted server keeps in the session; `to_dict` leaves it out if it is empty."""
    revision: int = 0
    """The record revision: the number of updates of this record. A touch does not count."""
    unknown: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields that a newer version wrote and this version does not know."""

    @property
    def is_handle(self) -> bool:
        """Whether this is the record of a state handle (see `mcp_tornado.state`) and not the session of a client."""
        return self.protocol_version == HANDLE_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return the session as JSON types; times are integers, in microseconds since the epoch."""
        return {
            **self.unknown,
            **({"server_state": self.server_state} if self.server_state else {}),
            "key": self.key,
            "created_at": to_microseconds(self.created_at),
            "last_seen_at": to_microseconds(self.last_seen_at),
            "expires_at": to_microseconds(self.expires_at),
            "client": self.client.to_dict(),
            "principal": self.principal,
            "protocol_version": self.protocol_version,
            "client_params": self.client_params,
            "initialized": self.initialized,
            "journal": list(self.journal),
            "state": self.state,
            "revision": self.revision,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Session:
        """Return the session from the form of `to_dict`.

        Unknown fields are kept, and `to_dict` writes them again: two versions share a store during a rolling upgrade.

        Raises:
            KeyError: A field without a default is missing.
        """
        rest = dict(data)
        return cls(
            key=rest.pop("key"),
            created_at=from_microseconds(rest.pop("created_at")),
            last_seen_at=from_microseconds(rest.pop("last_seen_at")),
            expires_at=from_microseconds(rest.pop("expires_at")),
            client=ClientInfo.from_dict(rest.pop("client")),
            principal=rest.pop("principal", None),
            protocol_version=rest.pop("protocol_version"),
            client_params=rest.pop("client_params"),
            initialized=rest.pop("initialized", False),
            journal=tuple(rest.pop("journal", ())),
            state=rest.pop("state", {}),
            server_state=rest.pop("server_state", {}),
            revision=rest.pop("revision", 0),
            unknown=rest,
        )
