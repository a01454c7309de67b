"""The Lua scripts of the store: each is a file in `lua/`, runs atomically on the server, and takes one round trip."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """A script. `lua/common.lua`, and for scripts that use events `lua/events.lua`, define its first arguments."""

    text: str
    sha: str
    is_repeatable: bool
    """Whether the client may send the script again if it does not know whether it ran."""


def _load(name: str, *, uses_events: bool = False, is_repeatable: bool = False) -> Script:
    directory = files("mcp_tornado_redis") / "lua"
    parts = ("common", "events", name) if uses_events else ("common", name)
    text = "\n".join((directory / f"{part}.lua").read_text("utf-8") for part in parts)
    # Redis identifies a script by the SHA-1 of its text.
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(text, sha, is_repeatable)


CREATE: Final = _load("create")
GET: Final = _load("get", is_repeatable=True)
TOUCH: Final = _load("touch")
UPDATE: Final = _load("update")
DELETE: Final = _load("delete")
SWEEP: Final = _load("sweep")
COUNT: Final = _load("count", is_repeatable=True)
PAGE: Final = _load("page", is_repeatable=True)
APPEND: Final = _load("append", uses_events=True)
READ: Final = _load("read", uses_events=True, is_repeatable=True)
NEWEST: Final = _load("newest", uses_events=True, is_repeatable=True)
CLAIM: Final = _load("claim")
RELEASE: Final = _load("release")
