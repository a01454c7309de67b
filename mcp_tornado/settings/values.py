"""The types of the values that settings have; pydantic checks them.

`mcp_tornado.settings.wording` puts these declarations into words, so no bound is written twice. Only a regular
expression (`Text`) or another check by a function (`Words`) brings words of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias, TypeVar, cast

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

YEAR_SECONDS: Final = 365 * 86_400
_MAX_SECONDS: Final = 100 * YEAR_SECONDS
"""The sum of now and this many seconds is still far below the largest `datetime`."""
_MIN_KEY_LENGTH: Final = 32

PROCESS_ROUTES: Final = ("/healthz", "/readyz", "/metrics")
"""The routes that have a fixed path, which `server.path` cannot take."""

SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.-]*://"
_HOST: Final = r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/*?#@,]+)(:\d{1,5})?"

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Words:
    """The words for the values of a type that is checked by a function."""

    words: str


@dataclass(frozen=True, slots=True)
class Text(Words):
    """A form of text: a regular expression that the whole text must match, and the words for it."""

    pattern: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, text: str) -> str:
        if re.fullmatch(self.pattern, text) is None:
            raise ValueError(f"must be {self.words}")
        return text


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a number."""

    name: str


@dataclass(frozen=True, slots=True)
class Distinct:
    """A list must not contain an entry twice."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, items: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(items)) != len(items):
            raise ValueError("must not contain an entry twice")
        return items


def _list_to_tuple(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def _to_upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


ListOf: TypeAlias = Annotated[tuple[_Item, ...], BeforeValidator(_list_to_tuple)]
"""A list or a tuple, kept as a tuple."""

ListOrAny: TypeAlias = Annotated[tuple[_Item, ...] | tuple[Literal["*"]], BeforeValidator(_list_to_tuple)]
"""A list as `ListOf`, or `["*"]`."""

# An integer stays an integer, so 30 is not shown as 30.0.
Seconds: TypeAlias = Annotated[int | float, Unit("seconds"), Field(le=_MAX_SECONDS)]
Milliseconds: TypeAlias = Annotated[int, Unit("milliseconds")]
Bytes: TypeAlias = Annotated[int, Unit("bytes")]

LogLevel: TypeAlias = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(_to_upper),
]
"""A log level; upper and lower case are accepted."""

HostName: TypeAlias = Annotated[str, Text("a host name or an IP address", r"[^\s/\[\]]+")]
HostHeader: TypeAlias = Annotated[
    str,
    Text('a host name such as "mcp.example.com", "*.example.com" or "[::1]:8000"', rf"(\*\.(?!\[))?{_HOST}"),
]
Origin: TypeAlias = Annotated[str, Text('an origin such as "https://app.example.com"', SCHEME + _HOST)]
StoreURL: TypeAlias = Annotated[str, Text("a URL (scheme://...)", SCHEME + r"[^\x00-\x1f\x7f]*")]
SealingKey: TypeAlias = Annotated[
    str,
    Text(f"a text of at least {_MIN_KEY_LENGTH} random characters", rf"(?s:.){{{_MIN_KEY_LENGTH},}}"),
]
AppName: TypeAlias = Annotated[
    str,
    Text(
        '"package.module:attribute" or "path/to/file.py:attribute", with or without the attribute',
        r"[^\s:].*:[^\W\d][\w.]*|[^\s:].*\.py|[^\W\d][\w.]*",
    ),
]

# The routes are regular expressions that are matched with the path as the client sent it: neither decoded nor
# normalised. So no "%" and no "." or ".." as a segment.
EndpointPath: TypeAlias = Annotated[
    str,
    Text(
        'a path such as "/mcp": letters, digits and ._~- between slashes, without a slash at the end, '
        f"and none of {', '.join(PROCESS_ROUTES)}",
        rf"(?!({'|'.join(PROCESS_ROUTES)})\Z)(/(?!\.{{1,2}}(/|$))[A-Za-z0-9._~-]+)+",
    ),
]
