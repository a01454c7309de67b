"""The scripts that the server runs: each is atomic, one round trip, and a file in `lua/`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """One script. Its arguments begin with what `lua/common.lua` says and, where it knows events, `lua/events.lua`."""

    text: str
    sha: str
    repeatable: bool
    """Whether it may run twice where it was meant to run once."""


def _script(name: str, *, knows_events: bool = False, repeatable: bool = False) -> Script:
    directory = files("mcp_tornado_redis") / "lua"
    parts = ("common", "events", name) if knows_events else ("common", name)
    text = "\n".join((directory / f"{part}.lua").read_text("utf-8") for part in parts)
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()  # the server's own name for it
    return Script(text, sha, repeatable)


CREATE: Final = _script("create")
GET: Final = _script("get", repeatable=True)
TOUCH: Final = _script("touch")
UPDATE: Final = _script("update")
DELETE: Final = _script("delete")
SWEEP: Final = _script("sweep")
COUNT: Final = _script("count", repeatable=True)
PAGE: Final = _script("page", repeatable=True)
APPEND: Final = _script("append", knows_events=True)
READ: Final = _script("read", knows_events=True, repeatable=True)
NEWEST: Final = _script("newest", knows_events=True, repeatable=True)
CLAIM: Final = _script("claim")
RELEASE: Final = _script("release")
