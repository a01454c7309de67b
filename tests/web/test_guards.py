"""Web pages: CORS, the Origin check and the Host check."""

from __future__ import annotations

import pytest

from tests.web.messages import PING, initialize_request

pytestmark = pytest.mark.gen_test(timeout=60)

METHODS_OF_ROUTES = {
    "/mcp": {"GET", "POST", "DELETE"},
    "/mcp/session": {"GET", "POST", "DELETE"},
    "/mcp/send": {"POST"},
    "/mcp/receive": {"GET"},
    "/mcp/abort": {"POST"},
}
REQUEST_HEADERS = {
    "content-type",
    "accept",
    "authorization",
    "mcp-session-id",
    "mcp-protocol-version",
    "last-event-id",
    "mcp-method",
    "mcp-name",
}
EXPOSED_HEADERS = {"mcp-session-id", "mcp-protocol-version", "retry-after", "www-authenticate"}
PAGE_ORIGIN = "http://localhost:5173"
ALLOW_ALL = {"server": {"allowed_hosts": ["*"], "allowed_origins": ["*"]}}


def split_names(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(("path", "methods"), METHODS_OF_ROUTES.items())
async def test_preflight_allows_the_methods_and_headers_of_the_route(client, path, methods, slash):
    answer = await client.fetch(
        "OPTIONS",
        path + slash,
        Origin=PAGE_ORIGIN,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="content-type, mcp-session-id, mcp-param-region, Mcp-Param-Unit",
    )
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE_ORIGIN
    assert set(answer.headers["Access-Control-Allow-Methods"].split(", ")) >= methods
    allowed = split_names(answer.headers["Access-Control-Allow-Headers"])
    assert allowed == REQUEST_HEADERS | {"mcp-param-region", "mcp-param-unit"}
    assert int(answer.headers["Access-Control-Max-Age"]) > 0
    assert {"origin", "access-control-request-headers"} <= split_names(answer.headers["Vary"])


@pytest.mark.parametrize(
    ("requested", "others"),
    [
        (None, set()),
        ("", set()),
        ("x-api-key, traceparent", {"x-api-key", "traceparent"}),
        ("X-Custom", {"x-custom"}),
        ('x-one, not a name, x"y, x-two', {"x-one", "x-two"}),
    ],
)
async def test_preflight_of_an_allowed_origin_allows_every_requested_header(client, requested, others):
    answer = await client.fetch("OPTIONS", "/mcp", Origin=PAGE_ORIGIN, Access_Control_Request_Headers=requested)
    assert split_names(answer.headers["Access-Control-Allow-Headers"]) == REQUEST_HEADERS | others
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_preflight_of_another_origin_allows_no_header(client):
    answer = await client.fetch(
        "OPTIONS", "/mcp", Origin="http://evil.example", Access_Control_Request_Headers="x-api-key"
    )
    answer.assert_error("FORBIDDEN_ORIGIN")
    assert "Access-Control-Allow-Headers" not in answer.headers


async def test_preflight_needs_no_session_and_no_store(app, client):
    answer = await client.fetch("OPTIONS", "/mcp", Origin=PAGE_ORIGIN, session="dead")
    assert answer.status == 204


async def test_page_may_read_answers_and_errors(client):
    created = await client.fetch("POST", "/mcp", json_body=initialize_request(), Origin=PAGE_ORIGIN)
    answers = [
        created,
        await client.fetch("POST", "/mcp/session", Origin=PAGE_ORIGIN),
        await client.fetch("POST", "/mcp", json_body=PING, session=created.session, Origin=PAGE_ORIGIN),
        await client.fetch("GET", "/mcp/receive", session=created.session, Origin=PAGE_ORIGIN),
        await client.fetch("POST", "/mcp", json_body=PING, Origin=PAGE_ORIGIN),  # SESSION_REQUIRED
        await client.fetch("GET", "/mcp/session", session="dead", Origin=PAGE_ORIGIN),  # SESSION_NOT_FOUND
        await client.fetch("POST", "/mcp", body=b"{", session=created.session, Origin=PAGE_ORIGIN),  # PARSE_ERROR
        await client.fetch("PUT", "/mcp", Origin=PAGE_ORIGIN),  # METHOD_NOT_ALLOWED
        await client.fetch("POST", "/mcp", session=created.session, Content_Type="text/plain", Origin=PAGE_ORIGIN),
        await client.fetch(
            "POST", "/mcp/abort", json_body={"requestId": 9}, session=created.session, Origin=PAGE_ORIGIN
        ),
        await client.fetch("DELETE", "/mcp", session=created.session, Origin=PAGE_ORIGIN),
    ]
    assert [answer.status for answer in answers] == [200, 201, 200, 200, 400, 404, 400, 405, 415, 404, 204]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE_ORIGIN
        assert split_names(answer.headers["Access-Control-Expose-Headers"]) == EXPOSED_HEADERS
        assert "origin" in split_names(answer.headers["Vary"])


async def test_page_may_read_a_stream(client):
    session = await client.create_session()
    connection = await client.open_stream("GET", "/mcp", Mcp_Session_Id=session, Origin=PAGE_ORIGIN)
    assert connection.headers["Access-Control-Allow-Origin"] == PAGE_ORIGIN
    assert connection.headers["Vary"] == "Origin"


@pytest.mark.parametrize("sections", [{"server": {"max_body_bytes": 10}}])
async def test_page_may_read_that_its_body_was_too_large(client):
    answer = await client.fetch("POST", "/mcp", json_body=PING, Origin=PAGE_ORIGIN)
    answer.assert_error("PAYLOAD_TOO_LARGE")
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE_ORIGIN


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost.evil.example",
        "http://evil.example:80",
        "http://localhost@evil.example",
        "http://localhost:80@evil.example",
        "http://localhost/evil",
        "http://localhost:",
        "http://localhost:x",
        "ftp://localhost",
        "localhost",
        "//localhost",
        "null",
        "",
        "*",
        "http://",
        "http://[::2]",
        "http://::1",
    ],
)
async def test_other_origins_are_refused(client, origin):
    session = await client.create_session()
    for path, methods in METHODS_OF_ROUTES.items():
        for method in (*methods, "OPTIONS"):
            answer = await client.fetch(method, path, session=session, Origin=origin)
            answer.assert_error("FORBIDDEN_ORIGIN")
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert "Access-Control-Expose-Headers" not in answer.headers
    assert (await client.fetch("GET", "/mcp/session", session=session)).status == 200


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "https://localhost", "http://LOCALHOST:1", "http://127.0.0.1:99", "https://[::1]:8443"],
)
async def test_loopback_origins_are_allowed(client, origin):
    answer = await client.fetch("POST", "/mcp/session", Origin=origin)
    assert answer.status == 201
    assert answer.headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize("sections", [{"server": {"allowed_origins": ["https://app.example.com:8443", "app://x"]}}])
async def test_only_configured_origins_are_allowed(client):
    for origin, status in {
        "https://app.example.com:8443": 201,
        "app://x": 201,
        "https://app.example.com": 403,
        "https://app.example.com:1": 403,
        "http://app.example.com:8443": 403,
        PAGE_ORIGIN: 403,
    }.items():
        assert (await client.fetch("POST", "/mcp/session", Origin=origin)).status == status


@pytest.mark.parametrize("sections", [ALLOW_ALL])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "x"])
async def test_wildcard_allows_every_origin(client, origin):
    answer = await client.fetch("POST", "/mcp/session", Origin=origin)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (201, origin)


async def test_answer_without_an_origin_has_no_cors_headers(client):
    answer = await client.fetch("POST", "/mcp/session")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


# ---------------------------------------------------------------------- Host


async def post_with_hosts(client, *hosts: str, path: str = "/mcp/session", version: str = "1.1"):
    connection = await client.connect()
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    await connection.send(f"POST {path} HTTP/{version}\r\n{lines}Content-Length: 0\r\n\r\n".encode())
    return await connection.read_answer()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "127.0.0.1.",
        "127.1",
        "127.0.0.256",
        "0x7f000001",
        "2130706433",
        "::1",
        "[127.0.0.1].evil",
        "[::1].evil",
        "[::g]",
        "localhost.",
        "localhosts",
        "localhost:80:80",
    ],
)
async def test_other_hosts_are_misdirected(client, host):
    for path in ("/mcp", "/mcp/session", "/mcp/send", "/metrics", "/nowhere"):
        answer = await post_with_hosts(client, host, path=path)
        if answer.status != 400 or answer.body:  # Tornado itself refuses some
            answer.assert_error("MISDIRECTED_HOST")


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "localhost:1", "127.0.0.1", "127.0.0.1:65535", "[::1]", "[::1]:8000"]
)
async def test_loopback_hosts_are_allowed_on_any_port(client, host):
    assert (await post_with_hosts(client, host)).status == 201


@pytest.mark.parametrize("host", ["10.1.2.3:8000", "127.0.0.2", "0.0.0.0", "192.168.1.1", "[::2]", "[fe80::1]:8000"])
@pytest.mark.parametrize("sections", [{}, {"server": {"allowed_hosts": ["mcp.example.com"]}}])
async def test_a_host_that_is_an_ip_address_is_allowed(client, host):
    """A page that uses DNS rebinding sends its own name. Monitoring sends the address of the process."""
    assert (await post_with_hosts(client, host)).status == 201


@pytest.mark.parametrize("sections", [{"server": {"allowed_hosts": ["*.example.com", "*.example.org:8443"]}}])
async def test_an_entry_with_a_wildcard_allows_every_name_below_its_domain(client):
    for host, status in {
        "a.example.com": 201,
        "A.B.Example.COM:8000": 201,
        "a.example.org:8443": 201,
        "a.example.org": 421,
        "a.example.org:443": 421,
        "example.com": 421,
        ".example.com": 421,
        "a..example.com": 421,
        "badexample.com": 421,
        "a.example.com.evil.example": 421,
        "*.example.com": 421,
        "localhost": 421,
    }.items():
        answer = await post_with_hosts(client, host)
        assert answer.status == status or (status, answer.status, answer.body) == (421, 400, b""), host


@pytest.mark.parametrize("sections", [{"server": {"allowed_hosts": ["mcp.example.com", "other.example.com:8443"]}}])
async def test_only_configured_hosts_are_allowed(client):
    for host, status in {
        "mcp.example.com": 201,
        "MCP.example.com:8000": 201,
        "other.example.com:8443": 201,
        "other.example.com": 421,
        "other.example.com:443": 421,
        "localhost": 421,
        "example.com": 421,
    }.items():
        assert (await post_with_hosts(client, host)).status == status, host


@pytest.mark.parametrize("sections", [ALLOW_ALL])
async def test_wildcard_allows_every_host(client):
    assert (await post_with_hosts(client, "anything.example:1")).status == 201


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"], [""]])
async def test_request_without_exactly_one_host_is_refused(client, hosts):
    answer = await post_with_hosts(client, *hosts)
    assert answer.status in (400, 421)
    assert "Mcp-Session-Id" not in answer.headers


async def test_http_1_0_without_a_host_is_misdirected(client):
    (await post_with_hosts(client, version="1.0")).assert_error("MISDIRECTED_HOST")


async def test_probes_may_use_the_address_as_host(client):
    for path in ("/healthz", "/readyz", "/healthz/", "/readyz/"):
        connection = await client.connect()
        await connection.send(f"GET {path} HTTP/1.1\r\nHost: 10.0.0.7:8000\r\n\r\n".encode())
        assert (await connection.read_answer()).status == 200
    for host in ("10.0.0.7:8000", "evil.example"):
        connection = await client.connect()
        await connection.send(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = await connection.read_answer()
        if host == "evil.example":
            answer.assert_error("MISDIRECTED_HOST")
        assert answer.status == (421 if host == "evil.example" else 200)


async def test_a_refused_host_gets_no_cors_headers_for_a_refused_origin(client):
    answer = await client.fetch("POST", "/mcp/session", Host="evil.example", Origin="http://evil.example")
    answer.assert_error("MISDIRECTED_HOST")
    assert "Access-Control-Allow-Origin" not in answer.headers
