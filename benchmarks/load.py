"""The load generator: several sessions, each of which calls a tool again when the last call is answered."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from benchmarks.client import TIMEOUT_SECONDS, Client, WrongAnswer
from benchmarks.servers import RunningServer


@dataclass(frozen=True, slots=True)
class Load:
    """The result of one round of load."""

    calls: int
    seconds: float
    server_cpu_seconds: float
    own_cpu_seconds: float

    @property
    def calls_per_second(self) -> float:
        """Number of answered calls per second."""
        return self.calls / self.seconds

    @property
    def cpu_per_call(self) -> float:
        """Seconds of CPU time of the server per call."""
        return self.server_cpu_seconds / self.calls

    @property
    def server_share(self) -> float:
        """Share of a core that the server used; the load is always higher than what the server can answer."""
        return self.server_cpu_seconds / self.seconds

    @property
    def own_share(self) -> float:
        """Share of a core that the load generator used."""
        return self.own_cpu_seconds / self.seconds


def drive(server: RunningServer, connections: int, seconds: float, core: int | None) -> Load:
    """Open sessions on a server, call the tool in each of them again and again, and return the result.

    Args:
        server: The server.
        connections: Number of sessions, each on a connection of its own.
        seconds: Seconds during which calls are sent.
        core: The core to which this process is pinned; `None` does not pin it.

    Raises:
        WrongAnswer: An answer was not the expected one.
    """
    if core is not None:
        os.sched_setaffinity(0, {core})
    clients = [Client(server.port) for _ in range(connections)]
    try:
        for client in clients:
            client.open_session()
        return _drive(clients, psutil.Process(server.pid), seconds)
    finally:
        for client in clients:
            client.socket.close()


def _drive(clients: Sequence[Client], server: psutil.Process, seconds: float) -> Load:
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        server_cpu, own_cpu, started = _cpu_seconds_of(server), time.process_time(), time.perf_counter()
        for client in clients:
            client.call()
        calling, calls = len(clients), 0
        while calling:
            ready = selector.select(TIMEOUT_SECONDS)
            if not ready:
                raise WrongAnswer("the server does not answer at all")
            for key, _ in ready:
                client: Client = key.data
                if not client.receive():
                    continue
                calls += 1
                if time.perf_counter() - started < seconds:
                    client.call()
                else:
                    calling -= 1
        elapsed = time.perf_counter() - started
        return Load(calls, elapsed, _cpu_seconds_of(server) - server_cpu, time.process_time() - own_cpu)


def _cpu_seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
