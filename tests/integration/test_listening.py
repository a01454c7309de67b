"""What an operator notices of the listening address, the backlog and the log of probes."""

from __future__ import annotations

import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.server_process import StartServer

BURST = 300


@pytest.mark.parametrize(
    ("host", "allowed_hosts", "warns"),
    [
        ("0.0.0.0", None, True),
        ("::", None, True),
        ("0.0.0.0", '["localhost:8000", "127.0.0.1"]', True),
        ("0.0.0.0", '["mcp.example.com"]', False),
        ("0.0.0.0", '["*"]', False),
        ("127.0.0.1", None, False),
        ("localhost", None, False),
        ("::1", None, False),
    ],
)
def test_listening_for_other_machines_with_loopback_names_is_a_warning(
    start_server: StartServer, host: str, allowed_hosts: str | None, warns: bool
) -> None:
    settings = {} if allowed_hosts is None else {"SERVER__ALLOWED_HOSTS": allowed_hosts}
    with start_server(SERVER__HOST=host, **settings) as server:
        server.stop()
        warnings = server.log_lines_of("server.hosts_loopback")
        assert len(warnings) == warns
        for warning in warnings:
            assert warning["level"] == "warning"
            assert warning["host"] == host
            assert "server.allowed_hosts" in warning["hint"]
            assert "421" in warning["hint"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_a_probe_is_logged_at_debug_unless_it_fails(start_server: StartServer, path: str) -> None:
    with start_server(LOG__LEVEL="DEBUG") as server:
        assert httpx.get(f"{server.origin}{path}").status_code == 200
        assert httpx.post(f"{server.origin}{path}").status_code == 405
        server.stop()
        levels = [(line["method"], line["level"]) for line in server.log_lines_of("http.request")]
        assert levels == [("GET", "debug"), ("POST", "info")]


def test_a_burst_of_connections_waits_for_a_busy_server(start_server: StartServer) -> None:
    allowed = int(Path("/proc/sys/net/core/somaxconn").read_text())
    if allowed < BURST:
        pytest.skip(f"the system lets {allowed} connections wait")
    with start_server() as server:
        address = urlsplit(server.origin)
        server.send_signal(signal.SIGSTOP)
        try:
            with ExitStack() as stack:
                for _ in range(BURST):
                    # A connection beyond the backlog is not established: the client repeats its SYN after a second.
                    stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=0.9))
        finally:
            server.send_signal(signal.SIGCONT)
