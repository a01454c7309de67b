"""The headers that MCP 2026-07-28 mirrors from the body: each is compared with the body."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Generator
from inspect import Parameter, Signature
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import InvalidSignature
from pydantic import Field

from tests.integration.apps.mirrored import NON_ASCII_NAME
from tests.integration.server_process import Server, StartServer, app_name
from tests.integration.stateless_era import (
    HEADER_MISMATCH,
    UNSUPPORTED_VERSION,
    encode_header,
    envelope,
    stateless_headers,
)
from tests.integration.waiting import DEADLINE_SECONDS
from tests.integration.wire import LATEST, STATELESS, Wire, answer_text, error_code, open_wire

pytestmark = pytest.mark.anyio

NAMED_PARAMS: Final = {
    "tools/call": {"name": NON_ASCII_NAME},
    "prompts/get": {"name": NON_ASCII_NAME},
    "resources/read": {"uri": f"memo://{NON_ASCII_NAME}"},
}
"""The methods with a header `Mcp-Name`, and the params that it mirrors."""


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    """A server that must distinguish the eras, because it serves both without a session."""
    with start_server(app_name("mirrored"), SESSIONS__MODE="optional", EVENTS__STREAM_AFTER_SECONDS=5) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with open_wire(server) as wire:
        yield wire


def request(wire: Wire, method: str, **params: Any) -> dict[str, Any]:
    return wire.request(method, {**params, "_meta": envelope()})


async def forecast(wire: Wire, arguments: dict[str, Any], **given: str) -> httpx.Response:
    """Call the tool `forecast` with these arguments and headers: `Region="north"` is `Mcp-Param-Region: north`."""
    message = request(wire, "tools/call", name="forecast", arguments=arguments)
    params = {f"Mcp-Param-{name}": value for name, value in given.items()}
    return await wire.post(message, **stateless_headers("tools/call", "forecast"), **params)


def assert_mismatch(response: httpx.Response) -> None:
    assert response.status_code == 400, response.text
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert body["error"]["code"] == HEADER_MISMATCH
    assert body["error"]["message"]
    assert isinstance(body["id"], int)


def assert_called(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    assert answer_text(response.json()) == "called"


# ---------------------------------------------------------------- the revision


@pytest.mark.parametrize("session", [True, False])
@pytest.mark.parametrize("version", [None, LATEST, "2025-03-26", "2099-01-01"])
async def test_the_revision_header_must_equal_the_envelope(wire: Wire, version: str | None, session: bool) -> None:
    """Without it, a proxy that reads the header would assign the request to the handshake era, or to none."""
    if session:
        await wire.open_session()
    wire.headers.pop("MCP-Protocol-Version", None)
    right = stateless_headers("tools/list")
    wrong = {**right, "MCP-Protocol-Version": version} if version is not None else {"Mcp-Method": "tools/list"}
    assert_mismatch(await wire.post(request(wire, "tools/list"), **wrong))
    assert (await wire.post(request(wire, "tools/list"), **right)).status_code == 200


async def test_initialize_creates_a_session_even_with_an_envelope(wire: Wire) -> None:
    params = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "both", "version": "1"}}
    response = await wire.post(request(wire, "initialize", **params))
    assert response.json()["result"]["protocolVersion"] == LATEST
    assert response.headers["Mcp-Session-Id"]


async def test_the_refusal_of_an_unknown_revision_lists_the_supported_ones(wire: Wire) -> None:
    message = wire.request("tools/list", {"_meta": envelope("2099-01-01")})
    response = await wire.post(message, **stateless_headers("tools/list", version="2099-01-01"))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == UNSUPPORTED_VERSION
    assert response.json()["error"]["data"] == {"supported": [STATELESS], "requested": "2099-01-01"}
    discovered = await wire.post(request(wire, "server/discover"), **stateless_headers("server/discover"))
    assert discovered.json()["result"]["supportedVersions"] == [STATELESS]


@pytest.mark.parametrize("version", [None, "2025-03-26", "2025-06-18", LATEST])
async def test_the_header_sets_the_revision_of_a_request_without_a_session(wire: Wire, version: str | None) -> None:
    """Without the header it is 2025-03-26, the last revision that has no such header."""
    named = {} if version is None else {"MCP-Protocol-Version": version}
    response = await wire.post(wire.tool_request("revision"), **named)
    assert answer_text(response.json()) == (version or "2025-03-26")


async def test_a_batch_without_a_session_is_refused(wire: Wire) -> None:
    response = await wire.post([wire.tool_request("revision")])
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")


# ---------------------------------------------------------------- method and name


@pytest.mark.parametrize("method", [*NAMED_PARAMS, "tools/list", "server/discover", "nonesuch"])
async def test_the_method_header_must_equal_the_method(wire: Wire, method: str) -> None:
    named = {"Mcp-Name": encode_header(*NAMED_PARAMS[method].values())} if method in NAMED_PARAMS else {}
    message = request(wire, method, **NAMED_PARAMS.get(method, {}))
    right = {**stateless_headers(method), **named}
    for wrong in (None, "prompts/list", method.upper(), encode_header(method)):
        given = {**right, "Mcp-Method": wrong} if wrong is not None else {**right}
        if wrong is None:
            del given["Mcp-Method"]
        assert_mismatch(await wire.post(message, **given))
    served = await wire.post(message, **right)
    assert served.status_code == (404 if method == "nonesuch" else 200), served.text


@pytest.mark.parametrize("method", NAMED_PARAMS)
async def test_the_name_header_must_equal_the_name(wire: Wire, method: str) -> None:
    (name,) = NAMED_PARAMS[method].values()
    message = request(wire, method, **NAMED_PARAMS[method])
    for wrong in (
        None,
        "another",
        encode_header("another"),
        encode_header(name).upper(),
        encode_header(name)[:-3] + "?=",
        "=?base64?!?=",
    ):
        given = {} if wrong is None else {"Mcp-Name": wrong}
        assert_mismatch(await wire.post(message, **stateless_headers(method), **given))
    served = await wire.post(message, **stateless_headers(method), Mcp_Name=encode_header(name))
    assert served.status_code == 200, served.text


async def test_header_names_are_case_insensitive_and_values_are_not(wire: Wire) -> None:
    message = request(wire, "tools/call", name="forecast", arguments={"region": "North"})
    for change in (str.lower, str.upper, str.swapcase):
        named = {"MCP-Protocol-Version": STATELESS, "Mcp-Method": "tools/call", "Mcp-Name": "forecast"}
        given = {change(name): value for name, value in {**named, "Mcp-Param-Region": "North"}.items()}
        assert_called(await wire.post(message, **given))
    assert_mismatch(
        await wire.post(message, **stateless_headers("tools/call", "Forecast"), **{"Mcp-Param-Region": "North"})
    )
    assert_mismatch(
        await wire.post(message, **stateless_headers("tools/call", "forecast"), **{"Mcp-Param-Region": "north"})
    )


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ({"region": "north"}, {"Region": "north"}),
        ({"region": "north"}, {"Region": encode_header("north")}),
        ({"region": ""}, {"Region": ""}),
        ({"region": "Hello, 世界"}, {"Region": encode_header("Hello, 世界")}),
        ({"region": " padded "}, {"Region": encode_header(" padded ")}),
        ({"region": "two\nlines"}, {"Region": encode_header("two\nlines")}),
        ({"region": "=?base64?literal?="}, {"Region": encode_header("=?base64?literal?=")}),
        ({"region": "=?BASE64?literal?="}, {"Region": "=?BASE64?literal?="}),
        ({"days": 42}, {"Days": "42"}),
        ({"days": 42}, {"Days": "42.0"}),
        ({"days": -7}, {"Days": "-7"}),
        ({"days": 2**53 - 1}, {"Days": str(2**53 - 1)}),
        ({"hourly": True}, {"Hourly": "true"}),
        ({"hourly": False}, {"Hourly": "false"}),
        ({"place": {"city": "Oslo"}}, {"City": "Oslo"}),
        ({"region": "north", "days": 1, "text": "x"}, {"Region": "north", "Days": "1"}),
    ],
)
async def test_a_mirrored_argument_is_accepted(wire: Wire, arguments: dict[str, Any], given: dict[str, str]) -> None:
    assert_called(await forecast(wire, arguments, **given))


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ({"region": "north"}, {"Region": "south"}),
        ({"region": "north"}, {"Region": encode_header("south")}),
        ({"region": "north"}, {"Region": "=?base64?bm9ydGg?="}),
        ({"region": "north"}, {"Region": "=?base64?not base64?="}),
        ({"region": "north"}, {"Region": encode_header("north").replace("base64", "BASE64")}),
        ({"region": "=?base64?literal?="}, {"Region": "=?base64?literal?="}),
        ({"days": 42}, {"Days": "43"}),
        ({"days": 42}, {"Days": "42.5"}),
        ({"days": 2**53 - 1}, {"Days": str(2**53 - 2)}),
        ({"hourly": True}, {"Hourly": "True"}),
        ({"hourly": True}, {"Hourly": "false"}),
        ({"place": {"city": "Oslo"}}, {"City": "Rome"}),
    ],
)
async def test_an_argument_that_differs_from_its_header_is_refused(
    wire: Wire, arguments: dict[str, Any], given: dict[str, str]
) -> None:
    assert_mismatch(await forecast(wire, arguments, **given))


@pytest.mark.parametrize(
    "arguments", [{"region": "north"}, {"days": 0}, {"hourly": False}, {"place": {"city": "Oslo"}}, {"region": ""}]
)
async def test_an_argument_without_its_header_is_refused(wire: Wire, arguments: dict[str, Any]) -> None:
    assert_mismatch(await forecast(wire, arguments))


@pytest.mark.parametrize(
    "arguments", [{}, {"region": None}, {"days": None, "hourly": None}, {"place": {}}, {"place": None}, {"text": "x"}]
)
async def test_a_missing_argument_needs_no_header(wire: Wire, arguments: dict[str, Any]) -> None:
    assert_called(await forecast(wire, arguments))


async def test_a_header_without_its_argument_is_refused(wire: Wire) -> None:
    assert_mismatch(await forecast(wire, {"text": "x"}, Region="north"))
    assert_mismatch(await forecast(wire, {"region": None}, Region="null"))


async def test_headers_of_unknown_arguments_are_ignored(wire: Wire) -> None:
    assert_called(await forecast(wire, {"region": "north"}, Region="north", Other="x", Text="y"))


async def test_a_tool_with_an_invalid_annotation_works_without_headers(wire: Wire) -> None:
    """Clients ignore the annotation of such a tool, and so send no headers for it."""
    message = request(wire, "tools/call", name="badly_annotated", arguments={"ratio": 0.5})
    assert_called(await wire.post(message, **stateless_headers("tools/call", "badly_annotated")))


# ---------------------------------------------------------------- raw requests


async def post_raw(wire: Wire, lines: bytes, message: Any) -> tuple[int, Any]:
    """POST a message with these header lines, and return the status and the JSON of the answer."""
    url = urlsplit(wire.server.url)
    body = json.dumps(message, ensure_ascii=False).encode()
    head = (
        f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n"
        f"MCP-Protocol-Version: {STATELESS}\r\n"
    )
    answer = b""
    async with await anyio.connect_tcp(url.hostname or "", url.port or 0) as stream:
        await stream.send(head.encode() + lines + b"\r\n\r\n" + body)
        with anyio.fail_after(DEADLINE_SECONDS):
            async for chunk in stream:
                answer += chunk
    answer_head, _, content = answer.partition(b"\r\n\r\n")
    return int(answer_head.split()[1]), json.loads(content)


@pytest.mark.parametrize("charset", ["latin-1", "utf-8"])
async def test_non_ascii_header_values_are_refused(wire: Wire, charset: str) -> None:
    """A value that is not ASCII is refused even if it matches: a proxy may read it in another charset."""
    named = b"Mcp-Method: tools/call\r\nMcp-Name: forecast\r\nMcp-Param-Region: "
    raw = "Zürich".encode(charset)
    for region in {"Zürich", raw.decode("latin-1")}:
        call = request(wire, "tools/call", name="forecast", arguments={"region": region})
        status, body = await post_raw(wire, named + raw, call)
        assert (status, body["id"], body["error"]["code"]) == (400, call["id"], HEADER_MISMATCH)
        status, body = await post_raw(wire, named + encode_header(region).encode(), call)
        assert (status, answer_text(body)) == (200, "called")

    call = request(wire, "tools/call", name=NON_ASCII_NAME, arguments={})
    status, body = await post_raw(wire, b"Mcp-Method: tools/call\r\nMcp-Name: " + NON_ASCII_NAME.encode(charset), call)
    assert (status, body["id"], body["error"]["code"]) == (400, call["id"], HEADER_MISMATCH)
    unknown = request(wire, NON_ASCII_NAME)
    status, body = await post_raw(wire, b"Mcp-Method: " + NON_ASCII_NAME.encode(charset), unknown)
    assert (status, body["id"], body["error"]["code"]) == (400, unknown["id"], HEADER_MISMATCH)


@pytest.mark.parametrize("character", ["\0", "\1", "\x7f"])
async def test_control_characters_in_headers_are_refused(wire: Wire, character: str) -> None:
    call = request(wire, "tools/call", name="forecast", arguments={"region": f"a{character}b"})
    lines = f"Mcp-Method: tools/call\r\nMcp-Name: forecast\r\nMcp-Param-Region: a{character}b"
    status, body = await post_raw(wire, lines.encode(), call)
    assert (status, body["error"]["data"]["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("twice", ["MCP-Protocol-Version: 2025-11-25", "Mcp-Method: tools/call", "Mcp-Name: forecast"])
async def test_a_repeated_header_is_refused(wire: Wire, twice: str) -> None:
    call = request(wire, "tools/call", name="forecast", arguments={"region": "north"})
    lines = "Mcp-Method: tools/call\r\nMcp-Name: forecast\r\nMcp-Param-Region: north"
    status, body = await post_raw(wire, f"{lines}\r\n{twice}".encode(), call)
    assert (status, body["error"]["code"]) == (400, HEADER_MISMATCH)
    status, body = await post_raw(wire, f"{lines}\r\nMcp-Param-Region: north".encode(), call)
    assert (status, body["error"]["code"]) == (400, HEADER_MISMATCH)
    status, body = await post_raw(wire, b"\r\n".join(line + b" \t" for line in lines.encode().split(b"\r\n")), call)
    assert (status, answer_text(body)) == (200, "called"), "spaces around a value must be ignored"


# ---------------------------------------------------------------- annotations


def annotated(kind: Any, *names: str) -> Callable[..., str]:
    """Return a function with an argument of this type for each name; the name is the annotated header."""

    def tool(**arguments: Any) -> str:
        return ""

    parameters = [
        Parameter(f"argument_{index}", Parameter.KEYWORD_ONLY, annotation=Annotated[kind, field])
        for index, field in enumerate(Field(json_schema_extra={"x-mcp-header": name}) for name in names)
    ]
    tool.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return tool


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        pytest.param(str, [""], id="empty"),
        pytest.param(str, ["two words"], id="not a token"),
        pytest.param(str, ["Name:"], id="a colon"),
        pytest.param(str, ["a\r\nb"], id="line break"),
        pytest.param(str, ["Same", "sAME"], id="not unique"),
        pytest.param(float, ["Number"], id="number"),
        pytest.param(list[str], ["List"], id="not a primitive type"),
        pytest.param(str | None, ["Either"], id="not reachable"),
    ],
)
def test_the_sdk_refuses_invalid_annotations(kind: Any, names: list[str]) -> None:
    server = MCPServer("annotated")
    with pytest.raises(InvalidSignature, match="x-mcp-header"):
        server.tool()(annotated(kind, *names))


def test_the_sdk_accepts_valid_annotations() -> None:
    server = MCPServer("annotated")
    for kind in (str, int, bool):
        server.tool(kind.__name__)(annotated(kind, "One", "Two"))
