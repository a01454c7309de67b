"""How much a server offers to its clients, as far as it says so without a client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp_types.version import LATEST_PROTOCOL_VERSION
from pydantic import BaseModel

from mcp_tornado.hosting.fastmcp import is_fastmcp

_LIST_TIMEOUT_SECONDS: Final = 5.0
"""How long a server may take to list what it offers: a proxy asks another server."""

_MAX_PAGES: Final = 1000

_LISTS: Final = {
    "tools": "tools/list",
    "prompts": "prompts/list",
    "resources": "resources/list",
    "resourceTemplates": "resources/templates/list",
}
"""The methods that list what a server offers, by the key of the list in their results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """The number of tools, prompts and resources of a server; `None` if it does not list them without a client."""

    tools: int | None
    prompts: int | None
    resources: int | None
    """Resources and resource templates."""

    @property
    def is_empty(self) -> bool:
        """Whether the server offers nothing at all."""
        return self.tools == self.prompts == self.resources == 0


async def count_offers(server: object) -> Offers:
    """Count what a server offers, whose lifespan is entered; takes at most 5 seconds.

    The user's code lists it. A list that fails, or that needs a client, counts as `None`.
    """
    tools, prompts, resources, templates = await asyncio.gather(*(_count(server, key) for key in _LISTS))
    total = None if resources is None or templates is None else resources + templates
    return Offers(tools=tools, prompts=prompts, resources=total)


async def _count(server: object, key: str) -> int | None:
    try:
        async with asyncio.timeout(_LIST_TIMEOUT_SECONDS):
            if isinstance(server, Server):
                return await _count_pages(cast(Server[Any], server), key)
            return await _count_names(server, key)
    except Exception:
        return None


async def _count_names(server: object, key: str) -> int:
    """Count the names that a high-level server lists; FastMCP lists each version of a tool."""
    list_name = {"resourceTemplates": "list_resource_templates"}.get(key, f"list_{key}")
    lister: Callable[..., Awaitable[Sequence[Any]]] = getattr(server, list_name)
    # Middleware may ask for a client that there is none yet.
    entries = await (lister(run_middleware=False) if is_fastmcp(server) else lister())
    return len({str(getattr(entry, "uri", None) or entry.name) for entry in entries})


async def _count_pages(server: Server[Any], key: str) -> int | None:
    method, count, cursor = _LISTS[key], 0, None
    entry = server.get_request_handler(method)
    if entry is None:
        return 0
    # There is no session. A handler that uses it fails, and its list counts as unknown.
    context = ServerRequestContext[Any, Any](
        session=cast(Any, None), lifespan_context=None, protocol_version=LATEST_PROTOCOL_VERSION, method=method
    )
    for _ in range(_MAX_PAGES):
        result: Any = await entry.handler(context, entry.params_type.model_validate({"cursor": cursor}))
        page: dict[str, Any] = result.model_dump(by_alias=True) if isinstance(result, BaseModel) else result
        count += len(page[key])
        cursor = page.get("nextCursor")
        if cursor is None:
            return count
    return None
