"""What MCP 2026-07-28 mirrors into headers: each is compared with the body, on the wire."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Generator
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import InvalidSignature
from pydantic import Field

from tests.integration.conftest import LATEST, STATELESS, Server, StartServer, Wire, error_code, text_of, wire_to
from tests.integration.mirrored import ODD
from tests.integration.test_stateless import HEADER_MISMATCH, UNSUPPORTED_VERSION, envelope, headers

pytestmark = pytest.mark.anyio

APP: Final = f"{Path(__file__).with_name('mirrored.py')}:server"
NAMED: Final = {
    "tools/call": {"name": ODD},
    "prompts/get": {"name": ODD},
    "resources/read": {"uri": f"memo://{ODD}"},
}
"""The methods whose `Mcp-Name` is compared, and what of their params it mirrors."""


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    """A server that also serves requests of the handshake era without a session: no era is mistaken for another."""
    with start_server(APP, SESSIONS__MODE="optional", EVENTS__STREAM_AFTER_SECONDS=5) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with wire_to(server) as wire:
        yield wire


def request(wire: Wire, method: str, **params: Any) -> dict[str, Any]:
    return wire.request(method, {**params, "_meta": envelope()})


async def forecast(wire: Wire, arguments: dict[str, Any], **given: str) -> httpx.Response:
    """Call the tool with these arguments and these headers: `Region="north"` is `Mcp-Param-Region`."""
    message = request(wire, "tools/call", name="forecast", arguments=arguments)
    params = {f"Mcp-Param-{name}": value for name, value in given.items()}
    return await wire.post(message, **headers("tools/call", "forecast"), **params)


def encoded(text: str) -> str:
    return f"=?base64?{b64encode(text.encode()).decode()}?="


def assert_mismatch(response: httpx.Response) -> None:
    assert response.status_code == 400, response.text
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert body["error"]["code"] == HEADER_MISMATCH
    assert body["error"]["message"]
    assert isinstance(body["id"], int)


def assert_called(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    assert text_of(response.json()) == "called"


# ---------------------------------------------------------------- the revision


@pytest.mark.parametrize("session", [True, False])
@pytest.mark.parametrize("version", [None, LATEST, "2025-03-26", "2099-01-01"])
async def test_a_request_needs_the_header_of_its_envelope(wire: Wire, version: str | None, session: bool) -> None:
    """Else a proxy that goes by the header would take it for one of the handshake era, or of no era at all."""
    if session:
        await wire.open()
    wire.headers.pop("MCP-Protocol-Version", None)
    right = headers("tools/list")
    named = {**right, "MCP-Protocol-Version": version} if version is not None else {"Mcp-Method": "tools/list"}
    assert_mismatch(await wire.post(request(wire, "tools/list"), **named))
    assert (await wire.post(request(wire, "tools/list"), **right)).status_code == 200


async def test_initialize_begins_a_session_whatever_its_envelope_says(wire: Wire) -> None:
    params = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "both", "version": "1"}}
    response = await wire.post(request(wire, "initialize", **params))
    assert response.json()["result"]["protocolVersion"] == LATEST
    assert response.headers["Mcp-Session-Id"]


async def test_a_revision_that_is_not_served_is_told_which_are(wire: Wire) -> None:
    message = wire.request("tools/list", {"_meta": envelope("2099-01-01")})
    response = await wire.post(message, **headers("tools/list", version="2099-01-01"))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == UNSUPPORTED_VERSION
    assert response.json()["error"]["data"] == {"supported": [STATELESS], "requested": "2099-01-01"}
    discovered = await wire.post(request(wire, "server/discover"), **headers("server/discover"))
    assert discovered.json()["result"]["supportedVersions"] == [STATELESS]


@pytest.mark.parametrize("version", [None, "2025-03-26", "2025-06-18", LATEST])
async def test_without_a_session_the_header_tells_the_revision(wire: Wire, version: str | None) -> None:
    """And without the header it is 2025-03-26, the last one that had none."""
    named = {} if version is None else {"MCP-Protocol-Version": version}
    response = await wire.post(wire.call("revision"), **named)
    assert text_of(response.json()) == (version or "2025-03-26")


async def test_without_a_session_there_are_no_batches(wire: Wire) -> None:
    response = await wire.post([wire.call("revision")])
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")


# ---------------------------------------------------------------- method and name


@pytest.mark.parametrize("method", [*NAMED, "tools/list", "server/discover", "nonesuch"])
async def test_every_request_needs_its_method_as_a_header(wire: Wire, method: str) -> None:
    named = {"Mcp-Name": encoded(*NAMED[method].values())} if method in NAMED else {}
    message = request(wire, method, **NAMED.get(method, {}))
    right = {**headers(method), **named}
    for wrong in (None, "prompts/list", method.upper(), encoded(method)):
        given = {**right, "Mcp-Method": wrong} if wrong is not None else {**right}
        if wrong is None:
            del given["Mcp-Method"]
        assert_mismatch(await wire.post(message, **given))
    served = await wire.post(message, **right)
    assert served.status_code == (404 if method == "nonesuch" else 200), served.text


@pytest.mark.parametrize("method", NAMED)
async def test_what_has_a_name_needs_it_as_a_header(wire: Wire, method: str) -> None:
    (name,) = NAMED[method].values()
    message = request(wire, method, **NAMED[method])
    for wrong in (
        None,
        "another",
        encoded("another"),
        encoded(name).upper(),
        encoded(name)[:-3] + "?=",
        "=?base64?!?=",
    ):
        given = {} if wrong is None else {"Mcp-Name": wrong}
        assert_mismatch(await wire.post(message, **headers(method), **given))
    served = await wire.post(message, **headers(method), Mcp_Name=encoded(name))
    assert served.status_code == 200, served.text


async def test_names_of_headers_come_in_any_case_their_values_do_not(wire: Wire) -> None:
    message = request(wire, "tools/call", name="forecast", arguments={"region": "North"})
    for change in (str.lower, str.upper, str.swapcase):
        named = {"MCP-Protocol-Version": STATELESS, "Mcp-Method": "tools/call", "Mcp-Name": "forecast"}
        given = {change(name): value for name, value in {**named, "Mcp-Param-Region": "North"}.items()}
        assert_called(await wire.post(message, **given))
    assert_mismatch(await wire.post(message, **headers("tools/call", "Forecast"), **{"Mcp-Param-Region": "North"}))
    assert_mismatch(await wire.post(message, **headers("tools/call", "forecast"), **{"Mcp-Param-Region": "north"}))


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ({"region": "north"}, {"Region": "north"}),
        ({"region": "north"}, {"Region": encoded("north")}),
        ({"region": ""}, {"Region": ""}),
        ({"region": "Hello, 世界"}, {"Region": encoded("Hello, 世界")}),
        ({"region": " padded "}, {"Region": encoded(" padded ")}),
        ({"region": "two\nlines"}, {"Region": encoded("two\nlines")}),
        ({"region": "=?base64?literal?="}, {"Region": encoded("=?base64?literal?=")}),
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
async def test_an_argument_that_is_mirrored(wire: Wire, arguments: dict[str, Any], given: dict[str, str]) -> None:
    assert_called(await forecast(wire, arguments, **given))


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ({"region": "north"}, {"Region": "south"}),
        ({"region": "north"}, {"Region": encoded("south")}),
        ({"region": "north"}, {"Region": "=?base64?bm9ydGg?="}),
        ({"region": "north"}, {"Region": "=?base64?not base64?="}),
        ({"region": "north"}, {"Region": encoded("north").replace("base64", "BASE64")}),
        ({"region": "=?base64?literal?="}, {"Region": "=?base64?literal?="}),
        ({"days": 42}, {"Days": "43"}),
        ({"days": 42}, {"Days": "42.5"}),
        ({"days": 2**53 - 1}, {"Days": str(2**53 - 2)}),
        ({"hourly": True}, {"Hourly": "True"}),
        ({"hourly": True}, {"Hourly": "false"}),
        ({"place": {"city": "Oslo"}}, {"City": "Rome"}),
    ],
)
async def test_an_argument_that_differs_from_its_header(
    wire: Wire, arguments: dict[str, Any], given: dict[str, str]
) -> None:
    assert_mismatch(await forecast(wire, arguments, **given))


@pytest.mark.parametrize(
    "arguments", [{"region": "north"}, {"days": 0}, {"hourly": False}, {"place": {"city": "Oslo"}}, {"region": ""}]
)
async def test_an_argument_without_its_header(wire: Wire, arguments: dict[str, Any]) -> None:
    assert_mismatch(await forecast(wire, arguments))


@pytest.mark.parametrize(
    "arguments", [{}, {"region": None}, {"days": None, "hourly": None}, {"place": {}}, {"place": None}, {"text": "x"}]
)
async def test_no_header_is_needed_for_what_is_not_there(wire: Wire, arguments: dict[str, Any]) -> None:
    assert_called(await forecast(wire, arguments))


async def test_a_header_without_its_argument(wire: Wire) -> None:
    assert_mismatch(await forecast(wire, {"text": "x"}, Region="north"))
    assert_mismatch(await forecast(wire, {"region": None}, Region="null"))


async def test_headers_of_no_argument_are_passed_over(wire: Wire) -> None:
    assert_called(await forecast(wire, {"region": "north"}, Region="north", Other="x", Text="y"))


async def test_a_tool_that_is_badly_annotated_works_without_headers(wire: Wire) -> None:
    """Clients leave such tools out, and so send no headers for them."""
    message = request(wire, "tools/call", name="badly_annotated", arguments={"ratio": 0.5})
    assert_called(await wire.post(message, **headers("tools/call", "badly_annotated")))


# ---------------------------------------------------------------- what no client library sends


async def sent_raw(wire: Wire, lines: bytes, message: Any) -> tuple[int, Any]:
    """POST a message with these lines of the head, and return the status and the JSON of the answer."""
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
        with anyio.fail_after(30):
            async for chunk in stream:
                answer += chunk
    answered, _, content = answer.partition(b"\r\n\r\n")
    return int(answered.split()[1]), json.loads(content)


@pytest.mark.parametrize("charset", ["latin-1", "utf-8"])
async def test_characters_that_a_header_cannot_hold(wire: Wire, charset: str) -> None:
    """What is not ASCII is refused even where it would match: others may read it in another charset."""
    named = b"Mcp-Method: tools/call\r\nMcp-Name: forecast\r\nMcp-Param-Region: "
    raw = "Zürich".encode(charset)
    for region in {"Zürich", raw.decode("latin-1")}:
        call = request(wire, "tools/call", name="forecast", arguments={"region": region})
        status, body = await sent_raw(wire, named + raw, call)
        assert (status, body["id"], body["error"]["code"]) == (400, call["id"], HEADER_MISMATCH)
        status, body = await sent_raw(wire, named + encoded(region).encode(), call)
        assert (status, text_of(body)) == (200, "called")

    odd = request(wire, "tools/call", name=ODD, arguments={})
    status, body = await sent_raw(wire, b"Mcp-Method: tools/call\r\nMcp-Name: " + ODD.encode(charset), odd)
    assert (status, body["id"], body["error"]["code"]) == (400, odd["id"], HEADER_MISMATCH)
    unknown = request(wire, ODD)
    status, body = await sent_raw(wire, b"Mcp-Method: " + ODD.encode(charset), unknown)
    assert (status, body["id"], body["error"]["code"]) == (400, unknown["id"], HEADER_MISMATCH)


@pytest.mark.parametrize("character", ["\0", "\1", "\x7f"])
async def test_control_characters_are_no_http(wire: Wire, character: str) -> None:
    call = request(wire, "tools/call", name="forecast", arguments={"region": f"a{character}b"})
    lines = f"Mcp-Method: tools/call\r\nMcp-Name: forecast\r\nMcp-Param-Region: a{character}b"
    status, body = await sent_raw(wire, lines.encode(), call)
    assert (status, body["error"]["data"]["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("twice", ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: forecast"])
async def test_a_header_that_comes_twice(wire: Wire, twice: str) -> None:
    call = request(wire, "tools/call", name="forecast", arguments={"region": "north"})
    lines = "Mcp-Method: tools/call\r\nMcp-Name: forecast\r\nMcp-Param-Region: north"
    status, body = await sent_raw(wire, f"{lines}\r\n{twice}".encode(), call)
    assert (status, body["error"]["code"]) == (400, HEADER_MISMATCH)
    status, body = await sent_raw(wire, f"{lines}\r\nMcp-Param-Region: north".encode(), call)
    assert (status, body["error"]["code"]) == (400, HEADER_MISMATCH)
    status, body = await sent_raw(wire, b"\r\n".join(line + b" \t" for line in lines.encode().split(b"\r\n")), call)
    assert (status, text_of(body)) == (200, "called"), "spaces around a value are none of it"


# ---------------------------------------------------------------- annotations


def annotated(kind: Any, *names: str) -> Callable[..., str]:
    """Return a function with an argument of this type for each name, which is the argument's annotation."""

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
        pytest.param(str, ["two words"], id="no token"),
        pytest.param(str, ["Name:"], id="a colon"),
        pytest.param(str, ["a\r\nb"], id="line break"),
        pytest.param(str, ["Same", "sAME"], id="not unique"),
        pytest.param(float, ["Number"], id="number"),
        pytest.param(list[str], ["List"], id="no primitive"),
        pytest.param(str | None, ["Either"], id="not reachable"),
    ],
)
def test_a_server_of_the_sdk_refuses_bad_annotations(kind: Any, names: list[str]) -> None:
    server = MCPServer("annotated")
    with pytest.raises(InvalidSignature, match="x-mcp-header"):
        server.tool()(annotated(kind, *names))


def test_a_server_of_the_sdk_takes_good_annotations() -> None:
    server = MCPServer("annotated")
    for kind in (str, int, bool):
        server.tool(kind.__name__)(annotated(kind, "One", "Two"))
