"""Masking of values for listings, error messages and logs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, cast
from urllib.parse import unquote_plus, urlsplit

from mcp_tornado.settings.table import SETTINGS
from mcp_tornado.settings.values import SCHEME

_MASK: Final = "***"
_SECRET_NAME: Final = re.compile(
    r"pass(word|wd|phrase)|pwd|secret|token|key|credential|signature|(?<![a-z])(pw|pass|sig|auth)(?![a-z])",
    re.IGNORECASE,
)


def masked(key: str, value: object) -> object:
    """Return the value as listings, errors and logs may show it.

    The whole value of a setting that is declared secret is `***`. So is any value whose key, or whose name in a table,
    contains a word such as password, secret, token, key or credential. In a text, `user:password@` becomes `***@`, and
    the values of URL parameters with such names become `***`. If it is unclear where a password ends, more than the
    password is masked: of a URL that cannot be parsed, only the scheme is shown. An object is shown as its text. An
    empty list is shown, because it holds no secret.

    Args:
        key: The key of a setting, of a section, or of an entry of a table: `sessions.store_options.password`.
        value: The value, which may have any type.
    """
    setting = SETTINGS.get(key)
    is_secret = is_secret_name(key) if setting is None else setting.secrecy == "whole"
    return _mask_value(value, is_secret=is_secret, hides_texts=_is_misplaced(key, value))


def _is_misplaced(key: str, value: object) -> bool:
    """Return whether a value has the wrong shape for a setting, or a section, with secret parts.

    Nothing tells which texts in such a value are secret: `MCP_TORNADO_SESSIONS__STORE_OPTIONS` may hold JSON.
    """
    setting = SETTINGS.get(key)
    if setting is None:
        in_section = (each for each in SETTINGS.values() if each.key.startswith(f"{key}."))
        return not isinstance(value, Mapping) and any(each.secrecy != "none" for each in in_section)
    if setting.secrecy == "none":
        return False
    if setting.is_table:
        return not isinstance(value, Mapping)
    return isinstance(value, Collection) and not isinstance(value, str)


def _mask_value(value: object, *, is_secret: bool, hides_texts: bool = False) -> object:
    if isinstance(value, list | tuple) and not value:
        return []
    if is_secret:
        return _MASK
    if isinstance(value, Mapping):
        table = cast("Mapping[Any, object]", value)
        return {
            name: _mask_value(entry, is_secret=is_secret_name(str(name)), hides_texts=hides_texts)
            for name, entry in table.items()
        }
    if isinstance(value, list | tuple):
        entries = cast("list[object]", value)
        return [_mask_value(entry, is_secret=False, hides_texts=hides_texts) for entry in entries]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _MASK if hides_texts else _mask_text(str(value))


def is_secret_name(name: str) -> bool:
    """Return whether a name is that of a secret: it contains a word such as password, token or key."""
    return _SECRET_NAME.search(name) is not None


def _mask_text(text: str) -> str:
    match = re.match(SCHEME, text)
    scheme = match.group() if match else ""
    try:
        urlsplit(text if scheme else "")
    except ValueError:
        return scheme + _MASK
    # A password may contain "/", "?" and "@" that are not escaped. A parser would end the address there. Only the last
    # "@" certainly follows the password.
    _, at, rest = text.removeprefix(scheme).rpartition("@")
    address, question, query = rest.partition("?")
    parameters = "&".join(_mask_parameter(part) for part in query.split("&"))
    return scheme + (_MASK + at if at else "") + _mask_parameter(address) + question + parameters


def _mask_parameter(part: str) -> str:
    name, equals, _ = part.partition("=")
    # The whole part is searched, because it can contain further parameters: "a=1;password=x", "a=1#token=x".
    return f"{name}={_MASK}" if equals and is_secret_name(unquote_plus(part)) else part
