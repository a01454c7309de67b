"""Prompts, resources and completions that fail because of what the client sent, and those that have a fault."""

from __future__ import annotations

import logging
from typing import Any

import mcp_types as types
import pytest
from fastmcp import FastMCP
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel, validate_call
from structlog.testing import capture_logs

from tests.web.test_eras import send, stateless_request

pytestmark = pytest.mark.gen_test(timeout=60)

PROMPT = {"type": "ref/prompt", "name": "plain"}


class Number(BaseModel):
    """A model that prompts of the author use."""

    number: int


@validate_call
def need_number(number: int) -> int:
    return number


async def square(n: int) -> str:
    return str(n * n)


def plain(n: int) -> str:
    return str(n * n)


async def broken(n: int) -> str:
    return str(Number.model_validate({"number": "a secret"}))


def broken_plain(n: int) -> str:
    return str(need_number("a secret"))  # pyright: ignore[reportArgumentType]


async def crashed(n: int) -> str:
    raise ValueError("a secret")


HANDLERS = (square, plain, broken, broken_plain, crashed)


def mcpserver() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("mistakes")
    for handler in HANDLERS:
        server.prompt()(handler)
        server.resource(f"{handler.__name__.replace('_', '-')}://{{n}}")(handler)
    return server


def fastmcp(*, masked: bool = False) -> FastMCP[Any]:
    server: FastMCP[Any] = FastMCP("mistakes", mask_error_details=masked)
    for handler in HANDLERS:
        server.prompt(handler)
        server.resource(f"{handler.__name__.replace('_', '-')}://{{n}}")(handler)
    return server


def low_level() -> Server[Any]:
    async def get_prompt(ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        if params.name == "crashed":
            await crashed(1)
        raise ValueError(f"Unknown prompt: {params.name}")

    async def read_resource(ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        if params.uri.startswith("crashed:"):
            await crashed(1)
        raise ValueError(f"Unknown resource: {params.uri}")

    async def complete(ctx: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
        if params.argument.name == "crashed":
            await crashed(1)
        raise ValueError(f"Unknown argument: {params.argument.name}")

    return Server("mistakes", on_get_prompt=get_prompt, on_read_resource=read_resource, on_completion=complete)


SERVERS = {"mcpserver": mcpserver, "fastmcp": fastmcp, "masked": lambda: fastmcp(masked=True), "low-level": low_level}
UNKNOWN = ("prompts/get", {"name": "unknown"})
UNKNOWN_URI = ("resources/read", {"uri": "unknown://1"})
WRONG_URI = ("resources/read", {"uri": "square://abc"})
WRONG_URI_PLAIN = ("resources/read", {"uri": "plain://abc"})
WITHOUT_NAME = ("prompts/get", {})
WITHOUT_URI = ("resources/read", {})


def get_prompt(name: str, **arguments: str) -> tuple[str, dict[str, Any]]:
    return "prompts/get", {"name": name, "arguments": arguments}


INTEGER = "Input should be a valid integer, unable to parse string as an integer"
MISTAKES = [
    ("mcpserver", UNKNOWN, "Unknown prompt: unknown"),
    ("mcpserver", get_prompt("square"), "Missing required arguments: {'n'}"),
    ("mcpserver", get_prompt("square", n="abc"), f"Error rendering prompt square: n: {INTEGER}"),
    ("mcpserver", get_prompt("plain", n="abc"), f"Error rendering prompt plain: n: {INTEGER}"),
    ("mcpserver", get_prompt("square", n="1", m="2"), "Error rendering prompt square: m: Unexpected keyword argument"),
    ("mcpserver", UNKNOWN_URI, "Unknown resource: unknown://1"),
    ("mcpserver", WRONG_URI, f"Error creating resource from template square://abc: n: {INTEGER}"),
    ("mcpserver", WRONG_URI_PLAIN, f"Error creating resource from template plain://abc: n: {INTEGER}"),
    ("mcpserver", WITHOUT_NAME, "Invalid request parameters"),
    ("mcpserver", WITHOUT_URI, "Invalid request parameters"),
    ("fastmcp", UNKNOWN, "Unknown prompt: 'unknown'"),
    ("fastmcp", get_prompt("square"), "Missing required arguments: {'n'}"),
    ("fastmcp", get_prompt("square", n="abc"), "Could not convert argument 'n' with value 'abc'"),
    ("fastmcp", get_prompt("plain", n="abc"), "Could not convert argument 'n' with value 'abc'"),
    ("fastmcp", UNKNOWN_URI, "Resource not found: 'unknown://1'"),
    ("fastmcp", WRONG_URI, "Error reading resource 'square://abc'"),
    ("fastmcp", WRONG_URI_PLAIN, "Error reading resource 'plain://abc'"),
    ("masked", get_prompt("square", n="abc"), "Could not convert argument 'n' with value 'abc'"),
    ("masked", WRONG_URI, "Error reading resource 'square://abc': invalid literal for int() with base 10: 'abc'"),
    ("low-level", UNKNOWN, "Unknown prompt: unknown"),
    ("low-level", UNKNOWN_URI, "Unknown resource: unknown://1"),
    (
        "low-level",
        ("completion/complete", {"ref": PROMPT, "argument": {"name": "x", "value": ""}}),
        "Unknown argument: x",
    ),
    ("low-level", WITHOUT_NAME, "Invalid request parameters"),
    ("low-level", ("completion/complete", {"ref": PROMPT}), "Invalid request parameters"),
]
FAULTS = [
    *((kind, get_prompt(name, n="1")) for kind in ("mcpserver", "fastmcp", "masked") for name in
      ("broken", "broken_plain", "crashed")),
    *((kind, ("resources/read", {"uri": f"{name}://1"})) for kind in ("mcpserver", "fastmcp", "masked") for name in
      ("broken", "broken-plain", "crashed")),
    ("low-level", get_prompt("crashed")),
    ("low-level", ("resources/read", {"uri": "crashed://1"})),
    ("low-level", ("completion/complete", {"ref": PROMPT, "argument": {"name": "crashed", "value": ""}})),
]  # fmt: skip


@pytest.fixture
def kind():
    return "mcpserver"


@pytest.fixture
def server(kind):
    return SERVERS[kind]()


@pytest.fixture
def logs():
    with capture_logs() as logs:
        yield logs


async def request_error(client, era: str, method: str, params: dict) -> dict:
    if era == "stateless":
        name = params.get("name") or params.get("uri")
        headers = {} if name is None else {"Mcp_Name": name}
        return (await send(client, stateless_request(method, **params), **headers)).json()["error"]
    session = await client.initialize()
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return (await client.fetch("POST", "/mcp", session=session, json_body=message)).json()["error"]


@pytest.mark.parametrize("era", ["handshake", "stateless"])
@pytest.mark.parametrize(("kind", "request_parts", "text"), MISTAKES)
async def test_mistake_of_the_client_is_answered_with_its_reason(client, caplog, logs, era, request_parts, text):
    with caplog.at_level(logging.INFO):
        error = await request_error(client, era, *request_parts)
    if (era, error["code"]) == ("stateless", -32020):
        return  # the SDK compares the name with a header before it looks at the params
    assert error["code"] == -32602
    assert error["message"].startswith(text)
    assert [record.levelname for record in caplog.records if record.levelno > logging.WARNING] == []
    assert not any(record.exc_info for record in caplog.records)
    assert not any("exception" in line for line in logs)
    own = [line for line in logs if line["event"] == "handler.rejected"]
    # caplog may get a record twice
    of_the_sdk = {id(record) for record in caplog.records if record.name.startswith(("mcp.server.mcp", "fastmcp.ser"))}
    assert len(own) + len(of_the_sdk) <= 1


@pytest.mark.parametrize("era", ["handshake", "stateless"])
@pytest.mark.parametrize(("kind", "request_parts"), FAULTS)
async def test_fault_of_the_server_is_an_internal_error(client, caplog, logs, kind, era, request_parts):
    error = await request_error(client, era, *request_parts)
    assert error["code"] == -32603
    if kind != "fastmcp":  # FastMCP shows the texts of exceptions unless it was told to mask them
        assert "a secret" not in error["message"]
    assert any(record.exc_info for record in caplog.records) or any("exception" in line for line in logs)
