"""Errors of `mcp_tornado.state` that a tool lets through: the client gets their text."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
from fastmcp import FastMCP
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from mcp_tornado import state
from tests.web.messages import tool_call
from tests.web.test_eras import send, stateless_request

pytestmark = pytest.mark.gen_test(timeout=60)

REASONS = {
    "current": "this request has no session: use state.create, and give the handle to the client",
    "find": "there is no state with this handle: the handle is unknown or has expired",
}
LARGE_STATE = {"sessions": {"max_state_bytes": 10}}


async def current() -> str:
    return str(state.current().data)


def current_plain() -> str:
    return str(state.current().read_sync())


async def find() -> str:
    return str((await state.open("unknown")).data)


def find_plain() -> str:
    return str(state.open_sync("unknown").data)


async def store() -> str:
    return str(await state.current().update(lambda data: data.update(text="x" * 100)))


def store_plain() -> str:
    return str(state.current().update_sync(lambda data: data.update(text="x" * 100)))


async def fail() -> str:
    raise ValueError("a secret in a message")


async def hide() -> str:
    try:
        return await find()
    except state.StateNotFound as error:
        raise ToolError("the author's own words") from error


TOOLS = {tool.__name__: tool for tool in (current, current_plain, find, find_plain, store, store_plain, fail, hide)}


def mcpserver() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("errors")
    for tool in TOOLS.values():
        server.tool(structured_output=False)(tool)

    @server.tool(structured_output=False)
    async def nested(ctx: Context[Any, Any]) -> str:
        return str(await server.call_tool("find", {}))

    return server


def fastmcp(*, masked: bool = False, mounted: bool = False) -> FastMCP[Any]:
    server: FastMCP[Any] = FastMCP("errors", mask_error_details=masked)
    for tool in TOOLS.values():
        server.tool(output_schema=None)(tool)
    if not mounted:
        return server
    outer: FastMCP[Any] = FastMCP("outer", mask_error_details=masked)
    outer.mount(server)
    return outer


def low_level() -> Server[Any]:
    async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        text = await TOOLS[params.name]()  # pyright: ignore[reportGeneralTypeIssues]
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    return Server("errors", on_call_tool=call_tool)


SERVERS = {
    "mcpserver": mcpserver,
    "fastmcp": fastmcp,
    "masked": lambda: fastmcp(masked=True),
    "masked-mounted": lambda: fastmcp(masked=True, mounted=True),
    "low-level": low_level,
}


@pytest.fixture(params=SERVERS)
def kind(request):
    return request.param


@pytest.fixture
def server(kind):
    return SERVERS[kind]()


def tool_names(kind: str, *names: str) -> list[str]:
    """Return names of tools, and those of the plain functions that do the same; a low-level server has none."""
    return [*names] if kind == "low-level" else [*names, *(f"{name}_plain" for name in names)]


def error_text(result: dict) -> str:
    assert result["isError"] is True
    return result["content"][0]["text"]


async def call_stateless(client, tool: str) -> dict:
    request = stateless_request("tools/call", name=tool, arguments={})
    result = (await send(client, request, Mcp_Name=tool)).result()
    assert result["resultType"] == "complete"
    return result


async def test_client_of_the_stateless_era_gets_the_reason(client, kind):
    for tool in tool_names(kind, "current", "find"):
        assert error_text(await call_stateless(client, tool)).endswith(REASONS[tool.removesuffix("_plain")])


@pytest.mark.parametrize("sections", [LARGE_STATE])
async def test_client_with_a_session_gets_the_reason(client, kind):
    session = await client.initialize()
    for tool in tool_names(kind, "find"):
        assert error_text((await client.call_tool(session, tool)).result()).endswith(REASONS["find"])
    for tool in tool_names(kind, "store"):
        text = error_text((await client.call_tool(session, tool)).result())
        assert "max_state_bytes" in text
        assert text.count("max_state_bytes") == 1


async def test_text_of_another_exception_stays_hidden(client, kind):
    session = await client.initialize()
    answer = await client.call_tool(session, "fail")
    # FastMCP shows it unless it was told to mask the details of errors.
    assert (b"a secret" in answer.body) is (kind == "fastmcp")


@pytest.mark.parametrize("kind", ["mcpserver"], indirect=True)
async def test_text_that_the_author_has_chosen_is_not_changed(client):
    session = await client.initialize()
    text = error_text((await client.call_tool(session, "hide")).result())
    assert text == "Error executing tool hide: the author's own words"


@pytest.mark.parametrize("kind", ["mcpserver"], indirect=True)
async def test_reason_of_a_nested_call_reaches_the_client(client):
    session = await client.initialize()
    text = error_text((await client.call_tool(session, "nested")).result())
    assert text == f"Error executing tool nested: Error executing tool find: {REASONS['find']}"


@pytest.mark.parametrize("sections", [{"sessions": {"mode": "off"}}])
async def test_client_without_a_session_gets_the_reason(client):
    answer = await client.fetch("POST", "/mcp", json_body=tool_call("current"))
    text = error_text(answer.result())
    assert text.endswith(REASONS["current"])
