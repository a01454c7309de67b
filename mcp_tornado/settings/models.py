"""The table of all settings: type, bounds, default, description, and whether a value is secret.

To add a setting, add one line here. Validation, error messages, masking, `mcp-tornado config` and
`docs/settings.md` (see `mcp_tornado.settings.reference`) follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mcp_tornado.settings.values import (
    AppName,
    Bytes,
    Distinct,
    EndpointPath,
    HostHeader,
    HostName,
    ListOf,
    ListOrAny,
    LogLevel,
    Milliseconds,
    Origin,
    SealingKey,
    Seconds,
    StoreURL,
)

Secrecy: TypeAlias = Literal["none", "parts", "whole"]
"""Which part of a value is secret. `parts`: the credentials of a URL, or entries of a table with names of secrets."""

_T = TypeVar("_T")


def setting(
    default: _T,
    description: str,
    *,
    secrecy: Secrecy = "none",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    min_length: int | None = None,
) -> _T:
    """Declare a setting.

    Args:
        default: The default, which is not validated.
        description: What the setting does, in Markdown: units, and what 0 means.
        secrecy: Which part of the value is secret. `repr` leaves out a value that has a secret part.
        ge: The smallest number that is allowed.
        gt: The number that the value must exceed.
        le: The largest number that is allowed.
        min_length: The smallest number of entries of a list.
    """
    return Field(
        default=default,
        description=description,
        repr=secrecy == "none",
        json_schema_extra={"secrecy": secrecy},
        ge=ge,
        gt=gt,
        le=le,
        min_length=min_length,
    )


class Section(BaseModel):
    """A group of settings, which cannot be changed.

    Types are strict: a text or a boolean is not accepted as a number, and 1.0 is not accepted as an integer.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    if not TYPE_CHECKING:
        # pydantic's own error for this shows the new value, which may be secret.
        def __setattr__(self, name: str, value: object) -> None:
            raise FrozenInstanceError(f"cannot assign to setting {name!r}")

        def __delattr__(self, name: str) -> None:
            raise FrozenInstanceError(f"cannot delete setting {name!r}")


class ServerSettings(Section):
    """The HTTP server."""

    host: HostName = setting("127.0.0.1", "The address to listen on. `0.0.0.0` listens on all IPv4 interfaces.")
    port: int = setting(8000, "The TCP port to listen on. 0 takes a free port.", ge=0, le=65535)
    workers: int = setting(
        1,
        "The number of processes that serve. More than 1 needs a store that processes can share and that keeps events.",
        ge=1,
    )
    path: EndpointPath = setting(
        "/mcp", "The path of the MCP endpoint. The paths of its helper routes begin with it: `/mcp/session`."
    )
    max_body_bytes: Bytes = setting(
        4_194_304, "The largest request body, in bytes. A larger one is refused with status 413.", ge=1
    )
    shutdown_grace_seconds: Seconds = setting(
        30,
        "The time that running calls have at shutdown, in seconds. Calls that still run then are cancelled. "
        "0 cancels them at once.",
        ge=0,
    )
    allowed_hosts: ListOrAny[HostHeader] = setting(
        ("localhost", "127.0.0.1", "[::1]"),
        "The values of the `Host` header that are accepted, beside IP addresses, which are always accepted. An entry "
        "without a port allows every port of that host. `*.example.com` allows every name below `example.com`. "
        '`["*"]` allows every host and so switches the check off.',
        min_length=1,
    )
    allowed_origins: ListOrAny[Origin] = setting(
        (
            "http://localhost",
            "https://localhost",
            "http://127.0.0.1",
            "https://127.0.0.1",
            "http://[::1]",
            "https://[::1]",
        ),
        "The values of the `Origin` header that are accepted; responses to them have CORS headers. An entry without a "
        'port allows every port of that origin. `["*"]` allows every origin and so switches the check off. A request '
        "without `Origin` is always accepted.",
    )
    xheaders: bool = setting(
        False,
        "Whether the client's address and scheme are taken from `X-Forwarded-For`, `X-Real-Ip`, `X-Forwarded-Proto` "
        "and `X-Scheme`. Switch this on only behind a proxy that sets these headers itself.",
    )
    json_responses: bool = setting(
        False,
        "Whether calls are answered with JSON, never with an event stream. If true, a call cannot send progress, log "
        "messages or server requests (requests to the client) before its result. `subscriptions/listen` is always a "
        "stream.",
    )
    keepalive_seconds: Seconds = setting(
        15, "The time without an event, in seconds, after which a comment is sent on an open stream.", gt=0
    )


class SessionSettings(Section):
    """Sessions, and the store that keeps them."""

    mode: Literal["required", "optional", "off"] = setting(
        "required",
        "`required`: a request of a protocol revision with a handshake (2025-11-25 and older) needs a session. "
        "`optional`: such a request is also served without a session. `off`: no sessions are created.",
    )
    store: StoreURL = setting(
        "memory://",
        "The URL of the store. Its scheme selects the plugin; `mcp-tornado stores` lists the installed ones.",
        secrecy="parts",
    )
    store_options: Mapping[str, Any] = setting(
        dict[str, Any](),
        "Options for the store's plugin, in addition to the URL. The options of several sources are merged.",
        secrecy="parts",
    )
    idle_timeout_seconds: Seconds = setting(
        3600,
        "The time after which a session expires, in seconds, if it has no request, no open stream and no running call. "
        "It may expire up to one touch interval later.",
        gt=0,
    )
    lifetime_seconds: Seconds = setting(
        604_800, "The largest age of a session, in seconds, even if it is in use. 0: no limit.", ge=0
    )
    touch_interval_seconds: Seconds = setting(
        30,
        "The smallest interval, in seconds, between two writes that only record that a session is in use. A value "
        "above a tenth of `idle_timeout_seconds` counts as that tenth. 0 writes at every request.",
        ge=0,
    )
    cleanup_interval_seconds: Seconds = setting(
        300, "The interval between two sweeps that delete expired sessions, in seconds.", gt=0
    )
    max_sessions: int = setting(
        100_000,
        "The largest number of sessions in the store. A new one above it is refused with status 503. 0: no limit.",
        ge=0,
    )
    max_per_principal: int = setting(
        0,
        "The largest number of sessions of one principal (an authenticated caller). A new one above it is refused "
        "with status 429. 0: no limit.",
        ge=0,
    )
    # Less than the 2 bytes of "{}" would refuse every session, and 0 would look like "no limit".
    max_state_bytes: Bytes = setting(
        65_536,
        "The largest state that the application, or FastMCP, keeps in a session, in bytes of JSON. "
        "A change above it raises `StateTooLarge`.",
        ge=2,
    )
    # The stateless era has no sessions, but `requestState` takes their place, and a key that is not set is kept in
    # the store.
    request_state_keys: Annotated[ListOf[SealingKey], Distinct()] = setting(
        (),
        "The keys that seal `requestState` between the rounds of a request. The first key seals and every key opens, "
        "so keys can be replaced one after the other. Empty: one key is generated and kept in the store.",
        secrecy="whole",
    )


class EventSettings(Section):
    """The event log of each session, from which clients resume streams."""

    max_per_session: int = setting(
        1000, "The largest number of events that are kept for a session. The oldest are dropped first.", ge=1
    )
    max_bytes: Bytes = setting(
        1_048_576,
        "The largest total size of the events that are kept for a session, in bytes. The oldest are dropped first.",
        ge=1,
    )
    ttl_seconds: Seconds = setting(3600, "The time that an event is kept, in seconds.", gt=0)
    stream_after_seconds: Seconds = setting(
        0.5,
        "The time, in seconds, after which a call that has sent nothing yet is answered with an event stream instead "
        "of JSON. 0: at once.",
        ge=0,
    )
    retry_milliseconds: Milliseconds = setting(
        1000,
        "The time that a client is asked to wait before it reconnects to a broken stream, in milliseconds (`retry:` "
        "of server-sent events). 0: it reconnects at once.",
        ge=0,
    )


class LogSettings(Section):
    """Logging, which goes to standard error."""

    level: LogLevel = setting("INFO", "The least severe level that is logged, in upper or lower case.")
    format: Literal["auto", "console", "json"] = setting(
        "auto",
        "`console`: lines for people. `json`: one JSON object on each line. `auto`: `console` if standard error is a "
        "terminal, else `json`.",
    )


class MetricsSettings(Section):
    """Prometheus metrics."""

    enabled: bool = setting(True, "Whether `/metrics` is served.")


class Settings(Section):
    """All settings. `load_settings` and `settings_from_sections` create them."""

    app: AppName = setting(
        "mcp_tornado.demo:server",
        "The MCP server to serve: a module or a file, and the server object in it, or a function without arguments "
        "that returns one. Without an attribute, `mcp`, `server` and `app` are tried.",
    )
    server: ServerSettings = Field(default_factory=ServerSettings)
    sessions: SessionSettings = Field(default_factory=SessionSettings)
    events: EventSettings = Field(default_factory=EventSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
