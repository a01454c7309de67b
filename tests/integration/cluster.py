"""Several server processes on one store."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mcp_tornado.sessions import EventId
from tests.chaos.processes import free_port
from tests.integration.server_process import EVERYTHING, Server
from tests.integration.stores import StoreServer, run_store
from tests.integration.wire import Frame, Wire

_MEMORY_DIRECTORY: Final = Path("/dev/shm")
"""Preferred place for the data, if it exists: a busy disk takes seconds to sync."""
_DEFAULTS: Final = {
    "LOG__LEVEL": "INFO",
    "SERVER__SHUTDOWN_GRACE_SECONDS": 20,
    "EVENTS__RETRY_MILLISECONDS": 10,
    "EVENTS__STREAM_AFTER_SECONDS": 0.1,
}


class Cluster:
    """Server processes on one store, each on a port of its own.

    Args:
        servers: The processes.
        store_url: The store that they share.
        store_server: The server of the store; `None` if it has none.
    """

    def __init__(self, servers: Sequence[Server], store_url: str, store_server: StoreServer | None) -> None:
        self.servers = servers
        self.store_url = store_url
        self.store_server = store_server
        self._killed: set[Server] = set()

    def kill(self, server: Server) -> None:
        """Kill a process."""
        self._killed.add(server)
        server.kill()

    def _remaining_servers(self) -> list[Server]:
        return [server for server in self.servers if server not in self._killed]

    async def open_gate(self, wire: Wire, gate: str) -> None:
        """Open a gate of a client in every process that was not killed."""
        for server in self._remaining_servers():
            other = await wire.at(server).new_client().open_session()
            await other.call_tool("open_gate", gate=gate)

    def stop(self, expected_errors: Sequence[str] = ()) -> None:
        """Stop all processes with SIGTERM; check that they end with 0 and logged no other errors than expected."""
        for server in self._remaining_servers():
            with suppress(ProcessLookupError):
                server.send_signal()
        for server in self._remaining_servers():
            assert server.block_until_exit() == 0, "".join(server.raw_log_lines[-50:])
            errors = [line for line in server.logged_errors() if line["event"] not in expected_errors]
            assert errors == [], errors

    def close(self) -> None:
        """Kill the processes that still run, and release their resources."""
        for server in self.servers:
            server.close()


@contextmanager
def run_cluster(
    kind: str, *, size: int = 3, app: str = EVERYTHING, expected_errors: Sequence[str] = (), **settings: object
) -> Generator[Cluster]:
    """Run server processes on a new store.

    Args:
        kind: The kind of the store.
        size: The number of processes.
        app: The name of the served app, as the command line takes it.
        expected_errors: The log events at the level of errors that the test causes.
        settings: Environment variables, without the prefix `MCP_TORNADO_`.
    """
    with tempfile.TemporaryDirectory(
        prefix="cluster-", dir=_MEMORY_DIRECTORY if _MEMORY_DIRECTORY.is_dir() else None
    ) as name:
        directory = Path(name)
        with run_store(kind, directory) as (url, store_server):
            # Ephemeral ports do not work: after a process is killed, another program may get its port.
            ports: set[int] = set()
            while len(ports) < size:
                ports.add(free_port())
            given = {**_DEFAULTS, "SESSIONS__STORE": url, **settings}
            servers = [Server(app, directory, given, ["--port", str(port)]) for port in ports]
            cluster = Cluster(servers, url, store_server)
            try:
                for server in servers:
                    assert server.url
                yield cluster
                cluster.stop(expected_errors)
            finally:
                cluster.close()


def process_name(event: Frame | str | None) -> str:
    """Return the name of the process that writes the stream of an event; the event may be given as its id."""
    event_id = event if isinstance(event, str) else (event.id if event is not None else None)
    parsed = EventId.parse(event_id or "")
    found = re.match("(?:post|send)-([^-]+)-", parsed.stream) if parsed is not None else None
    assert found is not None, f"the stream of {event} names no process"
    return found[1]
