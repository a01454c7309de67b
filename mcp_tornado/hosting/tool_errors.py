"""Errors that a tool may let through to its client: their text tells the client what to do.

The SDK and FastMCP hide the text of an exception that is not their own. The errors of `mcp_tornado.state` are written
for the client, so their text is added to the result of the tool call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError

from mcp_tornado.hosting.handlers import Handler, wrapped_handler
from mcp_tornado.sessions import SessionError, StateTooLarge

if TYPE_CHECKING:
    from fastmcp import FastMCP

_CALL_TOOL: Final = "tools/call"
_FASTMCP_PREFIX: Final = "Error calling tool "
"""How the text of an exception begins that FastMCP has wrapped, not the author of the tool."""


class ClientError(Exception):
    """An error whose text the client of a tool call gets."""


_SHOWN_IN_RESULTS: Final = (ClientError, StateTooLarge, SessionError)
_SHOWN_BY_LOW_LEVEL: Final = (ClientError, StateTooLarge)
"""Without `SessionError`: that is a JSON-RPC error, which a low-level server returns as it is."""


def show_errors_of_mcpserver(server: MCPServer[Any]) -> None:
    """Make an MCPServer add the text of a shown error to the result of the tool call that has raised it."""
    if not isinstance(server.call_tool, _ToolCaller):
        server.call_tool = _ToolCaller(server.call_tool, _cause_in_mcpserver, ToolError)


def show_errors_of_fastmcp(server: FastMCP[Any]) -> None:
    """Do the same for a FastMCP server, also if it masks the details of errors."""
    from fastmcp.exceptions import ToolError as FastMCPToolError

    def cause_of(error: Exception) -> BaseException | None:
        is_wrapped = isinstance(error, FastMCPToolError) and str(error).startswith(_FASTMCP_PREFIX)
        return error.__cause__ if is_wrapped else None

    if not isinstance(server.call_tool, _ToolCaller):
        server.call_tool = _ToolCaller(server.call_tool, cause_of, FastMCPToolError)


def errors_of_handlers_shown(server: Server[Any]) -> AbstractContextManager[None]:
    """Make the handler of tool calls return a shown error as a result with `isError`. On exit, restore the handler."""
    return wrapped_handler(server, _CALL_TOOL, _return_shown_errors)


def _return_shown_errors(handler: Handler) -> Handler:
    async def call_tool(ctx: Any, params: Any) -> Any:
        try:
            return await handler(ctx, params)
        except _SHOWN_BY_LOW_LEVEL as error:
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(error))], is_error=True)

    return call_tool


class _ToolCaller:
    """The method `call_tool` of a server, which adds the text of a shown error to the exception that hides it.

    Args:
        call_tool: The method.
        cause_of: Returns the exception of the tool that an exception of `call_tool` hides; `None` if it hides none.
        tool_error: The exception whose text the server returns to the client.
    """

    def __init__(
        self,
        call_tool: Callable[..., Awaitable[Any]],
        cause_of: Callable[[Exception], BaseException | None],
        tool_error: type[Exception],
    ) -> None:
        self._call_tool = call_tool
        self._cause_of = cause_of
        self._tool_error = tool_error

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        try:
            return await self._call_tool(*arguments, **named)
        except Exception as error:
            cause = self._cause_of(error)
            if not isinstance(cause, _SHOWN_IN_RESULTS) or str(cause) in str(error):
                raise
            raise self._tool_error(f"{error}: {cause}") from cause


def _cause_in_mcpserver(error: Exception) -> BaseException | None:
    return error.__cause__ if isinstance(error, UnexpectedToolError) else None
