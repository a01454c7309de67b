"""The lifespan of the user's server."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from mcp.server.lowlevel.server import Server


class ServerLifespan(AbstractAsyncContextManager[Any]):
    """The lifespan of a server, which also keeps the exception that the lifespan itself has raised.

    The exception passes unchanged. `error` tells it from the exceptions of the store and of the application, which
    leave `MCPApplication.lifespan` in the same way.
    """

    def __init__(self, server: Server[Any]) -> None:
        self.error: BaseException | None = None
        self._server = server
        self._entered: AbstractAsyncContextManager[Any]

    async def __aenter__(self) -> Any:
        """Enter the lifespan and return what it yields."""
        try:
            self._entered = self._server.lifespan(self._server)
            return await self._entered.__aenter__()
        except BaseException as error:
            self.error = error
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, frames: TracebackType | None
    ) -> bool | None:
        """Leave the lifespan. An exception that a failure of the application has caused is not one of the lifespan."""
        try:
            return await self._entered.__aexit__(kind, raised, frames)
        except BaseException as error:
            if raised is None:
                self.error = error
            raise
