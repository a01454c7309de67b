"""The reference model: the clients of a simulated cluster, and what they must and must not receive."""

from __future__ import annotations

from typing import Any

from mcp.server.lowlevel.server import Server
from mcp_types import ListToolsResult

from tests.kernel.model_calls import STANDALONE, Call, Elicitation
from tests.kernel.model_client import Client
from tests.kernel.simulated_cluster import SimulatedCluster
from tests.kernel.simulated_process import SimulatedProcess


class Model:
    """All clients and all calls of a simulated cluster.

    Args:
        seed: See `SimulatedCluster`.
    """

    def __init__(self, seed: int) -> None:
        self.cluster = SimulatedCluster(self._make_server, seed)
        self.clients: list[Client] = []
        self.calls: list[Call] = []

    def _make_server(self) -> Server[Any]:
        async def call_tool(ctx, params):
            return await self.calls[params.arguments["call"]].execute(ctx)

        async def list_tools(ctx, params):
            return ListToolsResult(tools=[])

        return Server("scripted", on_list_tools=list_tools, on_call_tool=call_tool)

    def add_client(self, session_id: str) -> None:
        """Add a client that has just created a session."""
        self.clients.append(Client(self.cluster, self.calls, len(self.clients), session_id))

    def client_of(self, call: Call) -> Client:
        """Return the client that has sent a call."""
        return self.clients[call.session.number]

    def live_clients(self) -> list[Client]:
        """Return the clients whose sessions must be alive."""
        return [client for client in self.clients if not client.session.may_have_ended()]

    def running_calls(self) -> list[Call]:
        """Return the calls whose handlers run."""
        return [call for call in self.calls if call.is_running]

    def unanswered_calls(self) -> list[Call]:
        """Return the calls that have no answer and whose sessions were not seen to have ended."""
        return [call for call in self.calls if call.answer is None and not call.session.has_ended]

    def open_elicitations(self) -> list[Elicitation]:
        """Return the requests to clients that a running call waits for, and that no client has replied to."""
        elicitations = [each for call in self.running_calls() for each in call.elicitations.values()]
        return [each for each in elicitations if each.request_id is not None and not each.was_replied]

    def allow_failures(self, process: SimulatedProcess, reason: str) -> None:
        """Allow that the calls of a process fail for this reason."""
        for call in self.calls:
            if call.process is process:
                call.allowed_failures.add(reason)

    def missing(self) -> list[str]:
        """Return a description of everything that a client must have received and has not."""
        missing = [f"the answer to {call}" for call in self.calls if call.is_answer_due or call.is_running]
        for client in self.live_clients():
            connections = client.standalone_connections
            if len(connections) != 1:
                missing.append(f"one reader of the standalone stream of client {client.number}: {connections}")
            missing += [
                f"messages of {call} on the standalone stream"
                for call in client.calls
                for stream in (client.standalone_stream, client.receive_stream)
                if "partitioned" not in call.allowed_failures
                and stream.received_counts[STANDALONE, call.number] < call.accepted_counts[STANDALONE]
            ]
        return missing
