"""Replacing the request handlers of a server for as long as it is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

from mcp.server.lowlevel.server import Server

Handler = Callable[[Any, Any], Awaitable[Any]]
"""A request handler of the SDK: it gets the SDK's context and the params."""


@contextmanager
def wrapped_handler(server: Server[Any], method: str, wrap: Callable[[Handler], Handler]) -> Generator[None]:
    """Replace the handler of a method, if the server has one, by what `wrap` makes of it. On exit, restore it."""
    entry = server.get_request_handler(method)
    if entry is None:
        yield
        return
    server.add_request_handler(method, entry.params_type, wrap(entry.handler))
    try:
        yield
    finally:
        server.add_request_handler(method, entry.params_type, entry.handler)
