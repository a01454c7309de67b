"""The settings: what there is, what is allowed, and where each value comes from.

`load_settings` serves the command line. From the weakest source to the strongest it takes the defaults below,
`settings.toml` (first the table of `[default]`, then that of the environment), `.secrets.toml` beside it (the
same two tables), variables `MCP_TORNADO_<SECTION>__<KEY>`, and the command line. `settings_from_sections`
serves embedders: it reads no file and no variable. Both check everything and return frozen dataclasses.

This is the only module that knows Dynaconf. Dynaconf reads files and variables one by one, and the layers are
laid over one another here, because Dynaconf's own layering

- appends a list to the weaker layer's once tables merge: `[production]` could not narrow the allowed hosts;
- keeps a history of merged tables, which cannot tell where a single value came from;
- also reads `settings.local.toml`, runs a `dynaconf_hooks.py` that lies beside the file, takes `DYNACONF_*`
  variables for settings, and lets variables such as `MERGE_ENABLED_FOR_DYNACONF` change how it works.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeGuard, TypeVar, cast
from urllib.parse import unquote_plus, urlsplit

from dynaconf import Dynaconf
from dynaconf.loaders import toml_loader
from dynaconf.utils.parse_conf import boolean_fix, parse_conf_data  # pyright: ignore[reportUnknownVariableType]

__all__ = [
    "ConfigError",
    "EventSettings",
    "LoadedSettings",
    "LogSettings",
    "MetricsSettings",
    "ServerSettings",
    "SessionSettings",
    "Settings",
    "describe",
    "load_settings",
    "masked",
    "settings_from_sections",
]

_SETTINGS_FILE: Final = "settings.toml"
_SECRETS_FILE: Final = ".secrets.toml"
_VARIABLE_PREFIX: Final = "MCP_TORNADO_"
_ENVIRONMENT_VARIABLE: Final = "MCP_TORNADO_ENV"
_DEFAULT_TABLE: Final = "default"
_ENVIRONMENTS: Final = ("development", "testing", "production")

_CENTURY: Final = 100 * 365 * 86_400
_KEY_LENGTH: Final = 32
_OWN_PATHS: Final = ("/healthz", "/readyz", "/metrics")
_HOST: Final = r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/*?#@,]+)(:\d{1,5})?"
_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.-]*://"

_T = TypeVar("_T")


class ConfigError(ValueError):
    """Settings that cannot be used.

    The message has one line for each problem. A line names the setting, shows its value (`masked`), says what
    is allowed and, where the settings were loaded, where the value came from.
    """


def _as_is(value: object) -> object:
    return value


def _is_table(value: object) -> TypeGuard[Mapping[Any, object]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a setting may be, in words and as a check, and the form in which it is kept."""

    allowed: str
    accepts: Callable[[object], bool]
    keep: Callable[[Any], object] = _as_is


def _flag() -> _Rule:
    return _Rule("true or false", lambda value: isinstance(value, bool))


def _whole(minimum: int, maximum: int | None = None) -> _Rule:
    allowed = f"a whole number from {minimum}" + (" on" if maximum is None else f" to {maximum}")

    def accepts(value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return minimum <= value and (maximum is None or value <= maximum)

    return _Rule(allowed, accepts)


def _seconds(*, zero: bool) -> _Rule:
    # The upper bound keeps "now + seconds" far inside what a datetime can hold. NaN is within no bounds.
    allowed = f"a number of seconds, {'0' if zero else 'above 0'} to {_CENTURY} (100 years)"

    def accepts(value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return 0 <= value <= _CENTURY and (zero or value > 0)

    return _Rule(allowed, accepts)


def _one_of(*names: str) -> _Rule:
    return _Rule(f"one of {', '.join(names)}", lambda value: value in names)


def _text(allowed: str, pattern: str) -> _Rule:
    return _Rule(allowed, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def _text_list(allowed: str, pattern: str, *, may_be_empty: bool) -> _Rule:
    def accepts(value: object) -> bool:
        if not _is_list(value):
            return False
        if not value:
            return may_be_empty
        if list(value) == ["*"]:
            return True
        return all(isinstance(item, str) and re.fullmatch(pattern, item) for item in value)

    return _Rule(allowed, accepts, tuple)


def _keys() -> _Rule:
    def accepts(value: object) -> bool:
        if not _is_list(value) or not all(isinstance(item, str) and len(item) >= _KEY_LENGTH for item in value):
            return False
        return len(set(value)) == len(value)

    return _Rule(f"a list of texts, all different, of at least {_KEY_LENGTH} random characters", accepts, tuple)


def _path() -> _Rule:
    # The routes are regular expressions that see the path as the client sent it: unencoded, unnormalised.
    segments = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")
    allowed = (
        'a path such as "/mcp": letters, digits and ._~- between slashes, without a slash at the end, '
        f"and none of {', '.join(_OWN_PATHS)}"
    )

    def accepts(value: object) -> bool:
        if not isinstance(value, str) or value in _OWN_PATHS:
            return False
        return segments.fullmatch(value) is not None

    return _Rule(allowed, accepts)


def _level() -> _Rule:
    levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    return _Rule(
        f"one of {', '.join(levels)}",
        lambda value: isinstance(value, str) and value.upper() in levels,
        str.upper,
    )


def _options() -> _Rule:
    def accepts(value: object) -> bool:
        return _is_table(value) and all(isinstance(name, str) for name in value)

    return _Rule("a table", accepts, dict)


def _setting(default: _T, rule: _Rule, *, shown: bool = True) -> _T:
    """Declare a setting. One that is not shown is left out of `repr`, which nobody masks."""
    return field(default=default, repr=shown, metadata={"rule": rule})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The HTTP server."""

    host: str = _setting("127.0.0.1", _text("a host name or an IP address", r"[^\s/\[\]]+"))
    """The address to listen on."""

    port: int = _setting(8000, _whole(0, 65535))
    """The TCP port to listen on; 0 takes any free one."""

    workers: int = _setting(1, _whole(1))
    """The number of processes."""

    path: str = _setting("/mcp", _path())
    """The path of the MCP endpoint, and what the paths of its helper routes begin with."""

    max_body_bytes: int = _setting(4_194_304, _whole(1))
    """The largest request body in bytes."""

    shutdown_grace_seconds: float = _setting(30, _seconds(zero=True))
    """How long running calls may go on at shutdown; 0 ends them at once."""

    allowed_hosts: tuple[str, ...] = _setting(
        ("localhost", "127.0.0.1", "[::1]"),
        _text_list(
            'a list of host names such as ["mcp.example.com", "[::1]:8000"], or ["*"] for every host',
            _HOST,
            may_be_empty=False,
        ),
    )
    """The `Host` headers that are served: without a port for every port of that host, `*` alone for all."""

    allowed_origins: tuple[str, ...] = _setting(
        (
            "http://localhost",
            "https://localhost",
            "http://127.0.0.1",
            "https://127.0.0.1",
            "http://[::1]",
            "https://[::1]",
        ),
        _text_list(
            'a list of origins such as ["https://app.example.com"], or ["*"] for every origin',
            _SCHEME + _HOST,
            may_be_empty=True,
        ),
    )
    """The `Origin` headers that are served: without a port for every port of it, `*` alone for all."""

    xheaders: bool = _setting(False, _flag())
    """Whether to believe `X-Forwarded-For` and its like; only safe behind a proxy that sets them itself."""

    json_responses: bool = _setting(False, _flag())
    """Whether every POST is answered with JSON, never with a stream."""

    keepalive_seconds: float = _setting(15, _seconds(zero=False))
    """The silence on a stream after which a comment is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Sessions and the store that keeps them."""

    mode: Literal["required", "optional", "off"] = _setting(
        "required",
        _one_of("required", "optional", "off"),
    )
    """Whether a handshake-era request needs a session, can do without, or never gets one."""

    store: str = _setting(
        "memory://",
        _text("a URL (scheme://...)", _SCHEME + r"[^\x00-\x1f\x7f]*"),
        shown=False,
    )
    """The URL of the store; its scheme picks the plugin."""

    store_options: Mapping[str, Any] = field(
        default_factory=dict[str, Any],
        repr=False,
        metadata={"rule": _options()},
    )
    """What the store's plugin is given besides the URL."""

    idle_timeout_seconds: float = _setting(3600, _seconds(zero=False))
    """How long a session lives without a request, a stream or a running call."""

    lifetime_seconds: float = _setting(604_800, _seconds(zero=True))
    """How long a session lives at most; 0: no such limit."""

    touch_interval_seconds: float = _setting(30, _seconds(zero=True))
    """The least time between two writes that only keep a session alive; counts as a tenth of the idle timeout
    where it is more, and 0 writes at every request."""

    cleanup_interval_seconds: float = _setting(300, _seconds(zero=False))
    """The time between two sweeps of expired sessions."""

    max_sessions: int = _setting(100_000, _whole(0))
    """How many sessions there may be; 0: no limit."""

    max_per_principal: int = _setting(0, _whole(0))
    """How many sessions one principal may have; 0: no limit."""

    # Below the 2 bytes of "{}" no session could even begin, and 0 would read like "no limit".
    max_state_bytes: int = _setting(65_536, _whole(2))
    """The largest state of a session in bytes of JSON."""

    # Here, although the stateless era has no sessions: it is what that era has instead, and a key that is not given
    # is kept in the store.
    request_state_keys: tuple[str, ...] = _setting((), _keys(), shown=False)
    """What `requestState` is sealed with between the rounds of a request: the first key seals, all of them open, so
    that keys can be exchanged one after the other. Empty: a key is made once and kept in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSettings:
    """The event log of each session, from which streams resume."""

    max_per_session: int = _setting(1000, _whole(1))
    """How many events of a session are kept."""

    max_bytes: int = _setting(1_048_576, _whole(1))
    """How many bytes of events of a session are kept."""

    ttl_seconds: float = _setting(3600, _seconds(zero=False))
    """How long an event is kept."""

    stream_after_seconds: float = _setting(0.5, _seconds(zero=True))
    """How long a call may run in silence before its POST is answered with a stream; 0: no time at all."""

    retry_milliseconds: int = _setting(1000, _whole(0))
    """How long a client is asked to wait before it reconnects (`retry:` in SSE)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Logging."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = _setting("INFO", _level())
    """The least severe level that is logged; read in any case."""

    format: Literal["auto", "console", "json"] = _setting(
        "auto",
        _one_of("auto", "console", "json"),
    )
    """How lines look; `auto` is `console` on a terminal and `json` elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """Prometheus metrics."""

    enabled: bool = _setting(True, _flag())
    """Whether `/metrics` is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings. Made by `load_settings` and `settings_from_sections`, which check every value."""

    app: str = _setting(
        "mcp_tornado.demo:server",
        _text('"package.module:attribute" or "path/to/file.py:attribute"', r"[^\s:].*:[^\W\d][\w.]*"),
    )
    """The MCP server to serve."""

    server: ServerSettings = field(default_factory=ServerSettings)
    sessions: SessionSettings = field(default_factory=SessionSettings)
    events: EventSettings = field(default_factory=EventSettings)
    log: LogSettings = field(default_factory=LogSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """Settings, and for each of them (`server.port`) where its value came from.

    A source reads `default`, `settings.toml [production]`, `.secrets.toml [default]` or `command line`, or is
    the name of a variable. Store options can be merged from several: all are named then, the strongest last.
    """

    settings: Settings
    sources: Mapping[str, str]


_SECTIONS: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {
        "server": ServerSettings,
        "sessions": SessionSettings,
        "events": EventSettings,
        "log": LogSettings,
        "metrics": MetricsSettings,
    }
)
_RULES: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "app": next(entry.metadata["rule"] for entry in fields(Settings) if entry.name == "app"),
        **{
            f"{section}.{entry.name}": entry.metadata["rule"]
            for section, kind in _SECTIONS.items()
            for entry in fields(kind)
        },
    }
)


def load_settings(
    *,
    env: str | None = None,
    overrides: Mapping[str, object] = MappingProxyType({}),
    directory: Path | None = None,
) -> LoadedSettings:
    """Read the settings from files, variables and the command line, and check them.

    A table in a stronger source adds to the weaker one's; any other value replaces it, lists included. The
    value of a variable is read as TOML (`9000`, `true`, `["a", "b"]`, `{a = 1}`), or as mere text where it is
    not TOML: text that looks like a number needs quotes of its own (`"12345"`).

    Args:
        env: The environment whose tables are used; by default that in `MCP_TORNADO_ENV`, else `development`.
        overrides: What the command line says, by setting: `{"server.port": 9000}`.
        directory: Where `settings.toml` and `.secrets.toml` are looked for, by default the current directory.
            Neither has to exist.

    Raises:
        ConfigError: A file cannot be read, the environment or a setting is unknown, or a value not allowed.
    """
    directory = Path.cwd() if directory is None else directory
    files = {name: _read_file(directory / name) for name in (_SETTINGS_FILE, _SECRETS_FILE)}
    environment = _choose_environment(env, files[_SETTINGS_FILE])
    draft = _Draft()
    for file, tables in files.items():
        draft.problems.extend(
            f"{file}: {name} belongs to no environment; put it under [{_DEFAULT_TABLE}] or [{environment}]"
            for name, table in tables.items()
            if not _is_environment(name, table)
        )
        for name in (_DEFAULT_TABLE, environment):
            table = tables.get(name)
            if _is_table(table):
                draft.lay(table, f"{file} [{name}]")
    for variable, sections in _read_variables():
        draft.lay(sections, variable)
    for key, value in overrides.items():
        draft.lay(_nested(key.split("."), value), "command line")
    settings = draft.settings()
    sources = {key: draft.sources.get(key, "default") for key in _RULES}
    return LoadedSettings(settings=settings, sources=MappingProxyType(sources))


def settings_from_sections(**sections: Mapping[str, object]) -> Settings:
    """Return settings with these sections (`server={"port": 9000}`), checked; what they leave out is default.

    Reads no file and no variable.

    Raises:
        ConfigError: A section or a setting is unknown, or a value is not allowed.
    """
    draft = _Draft()
    if "app" in sections:
        draft.problems.append("app is not a section")
    draft.lay({name: section for name, section in sections.items() if name != "app"}, None)
    return draft.settings()


def describe(loaded: LoadedSettings) -> list[tuple[str, object, str]]:
    """List every setting as its key, its value as it may be shown (`masked`), and its source."""
    return [(key, masked(key, _look_up(loaded.settings, key)), loaded.sources[key]) for key in _RULES]


_SECRET_NAME: Final = re.compile(
    r"pass(word|wd|phrase)|pwd|secret|token|key|credential|signature|(?<![a-z])(pw|pass|sig|auth)(?![a-z])",
    re.IGNORECASE,
)
_MASK: Final = "***"


def masked(key: str, value: object) -> object:
    """Return what may be shown of a value in listings, errors and logs.

    The whole value is `***` where the key, or inside a mapping an entry's name, speaks of a password, secret,
    token, key or credential. In text, `user:password@` becomes `***@`, and the values of URL parameters with
    such names become `***`. Where it is unclear what belongs to a password, more is masked rather than less:
    a URL that cannot be parsed shows its scheme only. Objects are shown as text. A list that is empty holds no secret.
    """
    if _is_list(value) and not value:
        return []
    if _SECRET_NAME.search(key):
        return _MASK
    if _is_table(value):
        return {name: masked(f"{key}.{name}", item) for name, item in value.items()}
    if _is_list(value):
        return [masked(key, item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _masked_text(str(value))


def _masked_text(text: str) -> str:
    match = re.match(_SCHEME, text)
    scheme = match.group() if match else ""
    try:
        urlsplit(text if scheme else "")
    except ValueError:
        return scheme + _MASK
    # A password may hold unescaped "/", "?" and "@", where a parser sees the end of the address: only the
    # last "@" is sure to come after it.
    _, at, rest = text.removeprefix(scheme).rpartition("@")
    address, question, query = rest.partition("?")
    parameters = "&".join(_masked_parameter(part) for part in query.split("&"))
    return scheme + (_MASK + at if at else "") + _masked_parameter(address) + question + parameters


def _masked_parameter(part: str) -> str:
    name, equals, _ = part.partition("=")
    # The whole part is searched, for it can hold further parameters: "a=1;password=x", "a=1#token=x".
    return f"{name}={_MASK}" if equals and _SECRET_NAME.search(unquote_plus(part)) else part


class _Draft:
    """Settings in the making: layers are laid over one another, then all values are checked at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.sources: dict[str, str] = {}
        self._values: dict[str, object] = {}

    def lay(self, sections: Mapping[str, object], source: str | None) -> None:
        """Lay a layer over the ones so far; `source` is `None` where no message needs to name it."""
        for section, content in sections.items():
            if section not in _SECTIONS:
                self._lay_value(section, content, source)
            elif _is_table(content):
                for key, value in content.items():
                    self._lay_value(f"{section}.{key}", value, source)
            else:
                self._refuse(section, content, "a table of settings", source)

    def settings(self) -> Settings:
        """Check the values and return them as settings.

        Raises:
            ConfigError: Something is wrong, here or in a layer.
        """
        kept: dict[str, dict[str, Any]] = {section: {} for section in ("", *_SECTIONS)}
        for key, value in self._values.items():
            rule = _RULES[key]
            if rule.accepts(value):
                section, _, name = key.rpartition(".")
                kept[section][name] = rule.keep(value)
            else:
                self._refuse(key, value, rule.allowed, self.sources.get(key))
        if self.problems:
            raise ConfigError("\n".join(self.problems))
        return Settings(**kept.pop(""), **{name: _SECTIONS[name](**values) for name, values in kept.items()})

    def _lay_value(self, key: str, value: object, source: str | None) -> None:
        if key not in _RULES:
            nearest = difflib.get_close_matches(key, (*_RULES, *_SECTIONS), n=1, cutoff=0)[0]
            self.problems.append(f"{key} is not a setting; did you mean {nearest}?{_origin(source)}")
            return
        below = self._values.get(key)
        self._values[key] = _merged(below, value)
        if source:
            merges = _is_table(below) and _is_table(value)
            self.sources[key] = f"{self.sources[key]}, {source}" if merges else source

    def _refuse(self, key: str, value: object, allowed: str, source: str | None) -> None:
        self.problems.append(f"{key}: {masked(key, value)!r} is not allowed: {allowed}{_origin(source)}")


def _origin(source: str | None) -> str:
    return f" (from {source})" if source else ""


def _merged(below: object, above: object) -> object:
    """Lay a value over another: tables merge, anything else is replaced."""
    if not _is_table(below) or not _is_table(above):
        return above
    return {**below, **{name: _merged(below.get(name), value) for name, value in above.items()}}


def _look_up(settings: Settings, key: str) -> object:
    value: object = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _nested(names: Sequence[str], value: object) -> Mapping[str, object]:
    for name in reversed(names):
        value = {name: value}
    return cast("Mapping[str, object]", value)


def _read_file(path: Path) -> dict[str, object]:
    """Read what stands at the top level of a file, by name in lower case; nothing where there is no file."""
    # Loads nothing but what is named below (see the top of the module). Without environments the tables are
    # taken as they stand. Without casts "@format" and its like are mere text: a value shall not read other
    # files or variables.
    reader = cast(
        "Any",
        Dynaconf(dynaconf_skip_loaders=True, load_dotenv=False, environments=False, auto_cast=False),
    )
    own = frozenset(reader.as_dict())
    try:
        # Opened here too, because Dynaconf only warns of a file that it cannot open.
        with path.open("rb"):
            toml_loader.load(  # pyright: ignore[reportUnknownMemberType]
                reader, env=_DEFAULT_TABLE, filename=[str(path)]
            )
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return {name.lower(): value for name, value in reader.as_dict().items() if name not in own}


def _is_environment(name: str, value: object) -> bool:
    return name not in _SECTIONS and _is_table(value)


def _choose_environment(env: str | None, tables: Mapping[str, object]) -> str:
    """Return the environment to use, in lower case.

    Raises:
        ConfigError: There is no such environment.
    """
    chosen = os.environ.get(_ENVIRONMENT_VARIABLE, _ENVIRONMENTS[0]) if env is None else env
    further = (name for name, table in tables.items() if _is_environment(name, table))
    known = [*_ENVIRONMENTS, *(name for name in further if name not in (*_ENVIRONMENTS, _DEFAULT_TABLE))]
    if chosen.lower() not in known:
        origin = _origin(_ENVIRONMENT_VARIABLE if env is None else None)
        raise ConfigError(f"{chosen!r} is not an environment; there are {', '.join(known)}{origin}")
    return chosen.lower()


def _read_variables() -> Iterator[tuple[str, Mapping[str, object]]]:
    """Read the variables that hold settings, each as a layer of its own; those of whole tables come first."""
    foreign = _kubernetes_prefixes()
    for variable in sorted(os.environ, key=lambda name: (name.count("__"), name)):
        if not variable.startswith(_VARIABLE_PREFIX) or variable == _ENVIRONMENT_VARIABLE:
            continue
        if variable.startswith(foreign):
            continue
        names = variable.removeprefix(_VARIABLE_PREFIX).split("__")
        value = parse_conf_data(
            boolean_fix(os.environ[variable]),
            tomlfy=True,
            box_settings={"AUTO_CAST_FOR_DYNACONF": False, "DYNABOXIFY": False},
        )
        # An option of a store has whatever case it has in a file; in capitals it is a variable's custom.
        options = [name.lower() if name.isupper() else name for name in names[2:]]
        yield variable, _nested([*(name.lower() for name in names[:2]), *options], value)


def _kubernetes_prefixes() -> tuple[str, ...]:
    """Return how the variables begin by which Kubernetes tells its pods of a Service named `mcp-tornado`.

    They (`MCP_TORNADO_SERVICE_HOST`, `MCP_TORNADO_PORT_8000_TCP`, ...) look like misspelt settings, and would
    keep the server from starting.
    """
    services = [
        name.removesuffix("_SERVICE_HOST")
        for name in os.environ
        if name.startswith(_VARIABLE_PREFIX) and name.endswith("_SERVICE_HOST")
    ]
    return tuple(f"{service}_{kind}" for service in services for kind in ("SERVICE_", "PORT"))
