"""Thousands of bad requests: none of them is answered with a 5xx, and the process serves on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port

from mcp_tornado import create_app

LIVE = object()
"""Stands for the id of a live session."""
SDK_STATUS = {200, 400, 403, 404, 406}
BOTH = "application/json, text/event-stream"

many = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


class Service:
    """One application and one connection to it, for all examples."""

    def __init__(self, helpers: Any, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self._helpers = helpers
        self._loop = loop
        self._port = port
        self._connection: Any = None
        self._session: str | None = None

    def ask(self, *args: Any, **kwargs: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(self._ask(*args, **kwargs), 5))

    def raw(self, data: bytes) -> bytes:
        """Send bytes and nothing more; return all that comes back."""

        async def exchange() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(data)
                writer.write_eof()
                return await reader.read()
            except ConnectionError:
                return b""
            finally:
                writer.close()

        return self._loop.run_until_complete(asyncio.wait_for(exchange(), 5))

    async def _ask(
        self, method: str, path: str, body: bytes | None, headers: list[tuple[str, bytes]], session: object = None
    ) -> Any:
        if self._session is None:
            made = await self._send("POST", "/mcp/session", b"", [])
            assert made.status == 201
            self._session = made.headers["Mcp-Session-Id"]
        headers = list(headers)
        if session is LIVE:
            headers.append(("Mcp-Session-Id", self._session.encode()))
        elif session is not None:
            headers.append(("Mcp-Session-Id", session))
        answer = await self._send(method, path, body, headers)
        if method == "DELETE" and answer.status == 204:
            self._session = None
        return answer

    async def _send(self, method: str, path: str, body: bytes | None, headers: list[tuple[str, bytes]]) -> Any:
        data = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode("latin-1")
        for name, value in headers:
            data += name.encode() + b": " + value + b"\r\n"
        if body is not None:
            data += b"Content-Length: %d\r\n" % len(body)
        data += b"\r\n" + (body or b"")
        connection, self._connection = self._connection, None  # kept only where all goes well
        if connection is not None:
            try:
                return await self._read(connection, method, data)
            except (ConnectionError, asyncio.IncompleteReadError):
                connection.close()  # a server may close an idle connection at any time
        connection = self._helpers.connection(*await asyncio.open_connection("127.0.0.1", self._port))
        try:
            return await self._read(connection, method, data)
        except BaseException:
            connection.close()
            raise

    async def _read(self, connection: Any, method: str, data: bytes) -> Any:
        await connection.send(data)
        await connection.head()
        headers = connection.headers
        answer = self._helpers.answer(connection.status, headers, b"")
        if headers.get("Content-Type") == "text/event-stream":
            connection.close()
        elif "Content-Length" not in headers and connection.status != 204:
            # What Tornado itself answers where a request is no HTTP.
            answer.body = await connection.reader.read()
            connection.close()
        else:
            length = 0 if method == "HEAD" else int(headers.get("Content-Length", 0))
            answer.body = await connection.reader.readexactly(length)
            if headers.get("Connection") == "close":
                connection.close()
            else:
                self._connection = connection
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def serves_on(self) -> None:
        """Check that an ordinary call is answered as ever."""
        body = json.dumps(self._helpers.tool_call("echo", 77, text="still here")).encode()
        answer = self.ask("POST", "/mcp", body, json_headers(), LIVE)
        assert answer.status == 200, answer.body
        assert answer.json()["result"]["content"] == [{"type": "text", "text": "still here"}]


@pytest.fixture(scope="module")
def service(helpers):
    structlog.configure(
        processors=[structlog.processors.JSONRenderer(default=str)], logger_factory=structlog.ReturnLoggerFactory()
    )
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = create_app(
        helpers.hosted().server,
        sessions={"max_sessions": 0},
        server={"allowed_hosts": ["*"], "max_body_bytes": 100_000},
        events={"stream_after_seconds": 30},
    )
    living = helpers.living(IOLoop.current(), app)
    next(living)
    sock, port = bind_unused_port()

    async def listen() -> HTTPServer:
        server = HTTPServer(app)
        server.add_socket(sock)
        return server

    server = loop.run_until_complete(listen())
    service = Service(helpers, loop, port)
    yield service
    service.serves_on()
    service.close()
    server.stop()
    loop.run_until_complete(server.close_all_connections())
    assert next(living, None) is None
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()
    structlog.reset_defaults()


def json_headers(*more: tuple[str, bytes]) -> list[tuple[str, bytes]]:
    return [("Accept", BOTH.encode()), ("Content-Type", b"application/json"), *more]


def check(answer: Any, helpers: Any, request: bytes = b"", *, may_be_no_http: bool = False) -> None:
    """Check that an answer has one of the known shapes."""
    seen = (answer.status, answer.body[:500])
    assert 200 <= answer.status < 500, seen
    assert not 300 <= answer.status < 400, seen
    for word in (b"Traceback", b'File "', b"site-packages", b"Error:", b"0x7f"):
        assert word not in answer.body or word in request, seen
    kind = answer.headers.get("Content-Type")
    if kind == "text/event-stream":
        assert answer.status == 200
        return
    if answer.status in (202, 204) and not answer.body:
        return
    if may_be_no_http and (answer.status, kind, answer.body) == (400, None, b""):
        return
    if answer.status == 200 and kind is not None and kind.startswith("text/plain"):
        return  # metrics
    assert kind == "application/json", seen
    if not answer.body:
        return  # HEAD
    value = json.loads(answer.body)
    if answer.status < 300 and (not isinstance(value, dict) or "error" not in value):
        return
    assert set(value) == {"jsonrpc", "id", "error"}, seen
    error = value["error"]
    assert isinstance(error["code"], int), seen
    assert isinstance(error["message"], str), seen
    ours = isinstance(error.get("data"), dict) and error["data"].get("code") in helpers.status
    if ours:
        # A handler that fails, as the SDK's does for an unknown prompt, has answered: that is no error of HTTP.
        failed = (error["data"]["code"], answer.status) == ("INTERNAL_ERROR", 200) and value["id"] is not None
        assert failed or answer.status == helpers.status[error["data"]["code"]], seen
        assert value["id"] is None, seen
        assert error["data"]["code"] != "INTERNAL_ERROR", seen
    else:
        assert answer.status in SDK_STATUS, seen
        assert set(error) <= {"code", "message", "data"}, seen
        assert error["code"] != -32603, seen


# ---------------------------------------------------------------------- what is sent

paths = st.sampled_from(["/mcp", "/mcp/session", "/mcp/send", "/mcp/receive", "/mcp/abort", "/mcp/", "/mcp/session/"])
body_paths = st.sampled_from(["/mcp", "/mcp/session", "/mcp/send", "/mcp/abort"])
all_paths = paths | st.sampled_from(["/healthz", "/readyz", "/metrics", "/", "/x", "/mcp/x", "/%ff", "//", "/mcp%00"])
methods = st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD", "BREW", "get"])
visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60).map(
    lambda text: text.strip().encode("latin-1")
)
sessions = st.sampled_from([LIVE, LIVE, None, b"", b"unknown", b"A" * 43, b"A" * 200]) | visible
versions = st.sampled_from(
    [None, None, b"2025-11-25", b"2025-03-26", b"2024-11-05", b"2026-07-28", b"x", b"2026-07-28, x"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
MCP_METHODS = [
    "initialize",
    "ping",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "server/discover",
    "tasks/get",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "sampling/createMessage",
    "elicitation/create",
    "roots/list",
]


def version_header(version: bytes | None) -> list[tuple[str, bytes]]:
    return [] if version is None else [("MCP-Protocol-Version", version)]


def mostly(good: Any, bad: Any = values) -> Any:
    """Return a strategy for a member of a message: right, wrong, or left out."""
    return st.sampled_from([good, good, ...]) | bad


def compact(value: dict[str, Any]) -> dict[str, Any]:
    return {key: member for key, member in value.items() if member is not ...}


almost_messages = st.fixed_dictionaries(
    {
        "jsonrpc": mostly("2.0"),
        "id": mostly(1),
        "method": mostly("ping", st.sampled_from(MCP_METHODS) | values),
        "params": mostly({}),
        "result": st.just(...) | st.just(...) | values,
        "error": st.just(...) | st.just(...) | mostly({"code": 1, "message": "x"}),
    }
).map(compact)


@many
@given(path=all_paths, method=methods, body=st.binary(max_size=300), session=sessions, version=versions)
def test_any_bytes_anywhere(service, helpers, path, method, body, session, version):
    answer = service.ask(method, path, body, json_headers(*version_header(version)), session)
    check(answer, helpers, body + path.encode())


@many
@given(
    message=almost_messages | values | st.lists(almost_messages, max_size=3),
    path=body_paths,
    session=sessions,
    version=versions,
)
def test_almost_json_rpc(service, helpers, message, path, session, version):
    body = json.dumps(message).encode()
    answer = service.ask("POST", path, body, json_headers(*version_header(version)), session)
    check(answer, helpers, body)
    if not isinstance(message, dict) and session is LIVE and version is None and path != "/mcp/session":
        assert answer.status == 400


nests = st.sampled_from(
    [10, 126, 250, 253, 254, 255, 256, 300, 500, 900, 960, 980, 985, 990, 995, 1000, 1015, 1020, 1023, 1024, 1025, 9000]
)
HARD = [
    b"1e400", b"-1e400", b"1e-400", b"0." + b"1" * 5000, b"1" * 4000, b"1" * 5000, b"-" + b"9" * 30,
    b"18446744073709551616", b"9223372036854775808", b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"',
    b'"\\uffff"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xf0\x9f\x98"', b"NaN", b"-Infinity", b"01", b"1.", b".5",
    b"tru", b"'x'", b'"\n"', b'{"a":1,"a":2}', b"\x00", b"{,}", b"[1,]", b"/**/1",
    b'"' + b"x" * 50_000 + b'"', b'""', b"{}", b"[]", b"null", b"-0", b"1E2", b"1.0",
]  # fmt: skip
hard = st.sampled_from(HARD) | nests.flatmap(
    lambda depth: st.sampled_from([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth])
)
FRAMES = [
    b"%s",
    b'{"jsonrpc":"2.0","id":%s,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":%s}',
    b'{"jsonrpc":%s,"id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":%s}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":%s}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":%s}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%s,"arguments":{}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a://b","_meta":{"a":%s}}}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"a","progress":%s}}',
    b'{"jsonrpc":"2.0","method":%s}',
    b'{"jsonrpc":"2.0","id":"s.1","result":%s}',
    b'{"jsonrpc":"2.0","id":%s,"result":{}}',
    b'{"jsonrpc":"2.0","id":1,"error":{"code":%s,"message":"x"}}',
    b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x","data":%s}}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":%s,'
    b'"clientInfo":{"name":"a","version":"1"}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":%s,"capabilities":{},'
    b'"clientInfo":{"name":"a","version":"1"}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":'
    b'{"experimental":{"a":{"b":%s}}},"clientInfo":{"name":"a","version":"1"}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"clientInfo":{"name":%s,"version":"1"}}}',
    b'{"jsonrpc":"2.0","id":%s,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"clientInfo":{"name":"a","version":"1"}}}',
    b'{"requestId":%s}',
    b'{"requestId":1,"reason":%s}',
    b'{"capabilities":%s}',
    b'{"capabilities":{"experimental":{"a":{"b":%s}}}}',
    b'{"protocolVersion":%s}',
    b'{"clientInfo":%s}',
    b'{"clientInfo":{"name":%s,"version":"1"}}',
    b'{"clientInfo":{"name":"a","version":"1","title":%s}}',
    b'{"x":%s}',
]


@settings(many, max_examples=700)
@given(frame=st.sampled_from(FRAMES), value=hard, path=body_paths, session=st.sampled_from([LIVE, LIVE, LIVE, None]))
def test_hard_values_in_every_place(service, helpers, frame, value, path, session):
    body = frame % value
    answer = service.ask("POST", path, body, json_headers(), session)
    check(answer, helpers, body)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/session", "/mcp/send"])
@pytest.mark.parametrize("depth", [100, 260, 500, 980, 1000, 1024, 3000])
def test_depth_in_every_place(service, helpers, path, depth):
    """Parsers, serialisers and the stack each have a depth of their own at which they give up."""
    for frame in FRAMES:
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            body = frame % (opening * depth + b"1" + closing * depth)
            answer = service.ask("POST", path, body, json_headers(), LIVE)
            assert answer.status < 500, (frame, answer.status, answer.body[:300])
            check(answer, helpers, body)


@settings(many, max_examples=500)
@given(
    method=st.sampled_from(MCP_METHODS),
    params=st.fixed_dictionaries(
        {
            "name": mostly("echo"),
            "arguments": mostly({"text": "x"}),
            "uri": mostly("a://b"),
            "level": mostly("info"),
            "cursor": st.just(...) | values,
            "ref": mostly({"type": "ref/prompt", "name": "x"}),
            "argument": mostly({"name": "a", "value": "b"}),
            "protocolVersion": mostly("2025-11-25", values | st.sampled_from(["2026-07-28", "2025-03-26", "1", ""])),
            "capabilities": mostly({}),
            "clientInfo": mostly({"name": "a", "version": "1"}),
            "requestId": st.just(...) | values,
            "progressToken": st.just(...) | values,
            "progress": st.just(...) | values,
            "_meta": st.just(...) | values | st.fixed_dictionaries({"progressToken": values}),
        }
    ).map(compact),
    request_id=st.sampled_from([..., 1, "a"]),
    path=st.sampled_from(["/mcp", "/mcp", "/mcp/send"]),
    session=st.sampled_from([LIVE, LIVE, LIVE, None]),
)
def test_real_methods_with_wrong_params(service, helpers, method, params, request_id, path, session):
    body = json.dumps(compact({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})).encode()
    answer = service.ask("POST", path, body, json_headers(), session)
    check(answer, helpers, body)


any_header = visible | st.sampled_from(
    [b"", b"*", b"*/*", b";", b",", b"a;b=c", b"application/json", b"text/event-stream", b"null"]
)


@settings(many, max_examples=500)
@given(
    method=methods,
    path=all_paths,
    session=sessions,
    headers=st.fixed_dictionaries(
        {},
        optional={
            "MCP-Protocol-Version": any_header | st.sampled_from([b"2025-11-25", b"2026-07-28"]),
            "Last-Event-ID": any_header
            | st.sampled_from([b"1", b"1.a.b", b"0.x.get", b"9" * 30, b"000000000001.AAAAAAAA.get", b"\xff.\xff.\xff"]),
            "Accept": any_header,
            "Content-Type": any_header,
            "Origin": any_header | st.sampled_from([b"http://localhost", b"http://evil", b"http://[::1]:1", b"://"]),
            "Access-Control-Request-Headers": any_header | st.just(b"mcp-param-x, x"),
            "User-Agent": any_header,
            "Mcp-Method": any_header,
            "Mcp-Name": any_header,
            "Mcp-Param-X": any_header,
            "If-None-Match": any_header,
            "Range": any_header,
            "Cookie": any_header,
            "Content-Encoding": any_header | st.just(b"gzip"),
        },
    ),
)
def test_any_headers(service, helpers, method, path, session, headers):
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}' if method in ("POST", "PUT", "PATCH") else None
    answer = service.ask(method, path, body, list(headers.items()), session)
    check(answer, helpers, b"".join(headers.values()) + path.encode())


PROTOCOL, CLIENT, CAPABILITIES = (
    f"io.modelcontextprotocol/{name}" for name in ("protocolVersion", "clientInfo", "clientCapabilities")
)


@settings(many, max_examples=400)
@given(
    method=st.sampled_from([*MCP_METHODS, "subscriptions/listen"]),
    params=st.dictionaries(
        st.sampled_from(["name", "arguments", "uri", "cursor", "notifications", "inputResponses", "requestState"]),
        values | st.just("echo") | st.just({"text": "x"}),
        max_size=3,
    ),
    meta=st.fixed_dictionaries(
        {PROTOCOL: mostly("2026-07-28"), CLIENT: mostly({"name": "a", "version": "1"}), CAPABILITIES: mostly({})}
    ).map(compact)
    | values,
    headers=st.fixed_dictionaries(
        {},
        optional={
            "MCP-Protocol-Version": st.just(b"2026-07-28") | st.just(b"2026-07-28") | any_header,
            "Mcp-Method": any_header | st.sampled_from([name.encode() for name in MCP_METHODS]),
            "Mcp-Name": any_header | st.just(b"echo"),
            "Mcp-Param-Text": any_header,
        },
    ),
    match=st.booleans(),
    session=st.sampled_from([None, None, LIVE]),
    request_id=st.sampled_from([..., 1, "a"]) | values,
)
def test_the_stateless_era(service, helpers, method, params, meta, headers, match, session, request_id):
    if match:
        headers = {**headers, "MCP-Protocol-Version": b"2026-07-28", "Mcp-Method": method.encode()}
    message = compact({"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": meta}})
    body = json.dumps(message).encode()
    answer = service.ask("POST", "/mcp", body, json_headers(*headers.items()), session)
    check(answer, helpers, body + b"".join(headers.values()))


queries = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=40)


@many
@given(
    query=queries
    | st.builds(
        "after={}&wait={}".format,
        queries | st.sampled_from(["%ff", "%00", "1.a.b", "9" * 40, "000000000001.x.get"]),
        st.sampled_from(["", "x", "-1", "61", "nan", "inf", "-inf", "1e9", "0x1", "%ff", "0", "0.0", "-0", "1;2"]),
    ),
    path=paths,
    session=st.sampled_from([LIVE, None]),
    accept=st.sampled_from([b"application/json", b"text/event-stream", b""]),
)
def test_any_query(service, helpers, query, path, session, accept):
    answer = service.ask("GET", f"{path}?{query}", None, [("Accept", accept)], session)
    check(answer, helpers, query.encode(), may_be_no_http=True)


FRAMING = [
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n{}",
    b"POST /mcp/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: %s\r\n\r\n0\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n%s",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: %s\r\nContent-Length: 2\r\n\r\n{}",
    b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /mcp HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET /mcp HTTP/%s\r\nHost: localhost\r\n\r\n",
    b"%s /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n",
    b"%s",
]
PIECES = [
    b"-1", b"1e3", b"2, 2", b"2, 3", b"+2", b"0x2", b"9" * 20, b"9" * 5000, b"1" * 200, b"99999999", b"",
    b"chunked, chunked", b"gzip", b"identity", b"ZZ\r\n{}\r\n0\r\n\r\n", b"2\r\n{}\r\n", b"2\r\n{}0\r\n\r\n",
    b"-2\r\n{}\r\n0\r\n\r\n", b"a" * 70_000, b"/\xff\xfe", b"http://localhost/mcp", b"*",
    b"/mcp?" + b"a&" * 2000, b"\x00", b"a\x00b", b" : x", b"x", b"X: \xff", b"1.0", b"2.0", b"9.9",
    b"localhost, localhost", b"local host", b"[::1", b"user@localhost", b"localhost:99999999",
]  # fmt: skip


@many
@given(frame=st.sampled_from(FRAMING), piece=st.sampled_from(PIECES) | st.binary(max_size=60))
def test_broken_http(service, helpers, frame, piece):
    """What is no HTTP is answered by Tornado with 400 or not at all; what just looks odd, by the handlers."""
    data = frame % piece
    got = service.raw(data)
    for head in got.split(b"HTTP/1.1 ")[1:]:
        status = int(head[:3])
        assert status < 500, (data[:200], got[:500])
    assert b"Traceback" not in got


def test_it_serves_on(service):
    service.serves_on()
