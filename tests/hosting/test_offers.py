"""How much a server offers, counted without a client."""

from __future__ import annotations

import mcp_types as types
import pytest
from fastmcp import FastMCP
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer

from mcp_tornado.hosting import Offers, count_offers

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("server_class", [MCPServer, FastMCP])
async def test_tools_prompts_and_resources_are_counted(server_class):
    server = server_class("full")
    assert (await count_offers(server)).is_empty

    @server.resource("thing://{name}")
    def thing(name: str) -> str:
        return name

    assert await count_offers(server) == Offers(tools=0, prompts=0, resources=1)
    assert not (await count_offers(server)).is_empty
    for name in ("one", "two"):
        server.tool(name=name)(thing)
    server.prompt(name="ask")(thing)
    server.resource("thing://one", name="one")(lambda: "one")
    assert await count_offers(server) == Offers(tools=2, prompts=1, resources=2)


async def test_the_pages_of_a_low_level_server_are_counted():
    async def list_tools(ctx, params):
        cursor = int(params.cursor or 0) + 1
        tool = types.Tool(name=f"tool-{cursor}", input_schema={"type": "object"})
        return types.ListToolsResult(tools=[tool], next_cursor=None if cursor == 3 else str(cursor))

    assert await count_offers(Server("paged", on_list_tools=list_tools)) == Offers(tools=3, prompts=0, resources=0)
    assert (await count_offers(Server("empty"))).is_empty


async def test_a_list_without_end_is_unknown():
    async def list_tools(ctx, params):
        return types.ListToolsResult(tools=[], next_cursor="again")

    assert (await count_offers(Server("endless", on_list_tools=list_tools))).tools is None


async def test_a_list_that_fails_is_unknown():
    async def list_tools(ctx, params):
        await ctx.session.list_roots()
        return types.ListToolsResult(tools=[])

    offers = await count_offers(Server("asking", on_list_tools=list_tools))
    assert offers == Offers(tools=None, prompts=0, resources=0)
    assert not offers.is_empty
