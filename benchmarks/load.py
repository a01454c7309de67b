"""The load generator: some sessions, each calling a tool again as soon as the last call is answered."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from benchmarks.client import TIME_LIMIT, Client, WrongAnswer
from benchmarks.servers import RunningServer


@dataclass(frozen=True, slots=True)
class Load:
    """What a server did under load."""

    calls: int
    seconds: float
    server_cpu_seconds: float
    own_cpu_seconds: float

    @property
    def calls_per_second(self) -> float:
        """How many calls were answered."""
        return self.calls / self.seconds

    @property
    def cpu_per_call(self) -> float:
        """Seconds of the server's CPU time that a call took."""
        return self.server_cpu_seconds / self.calls

    @property
    def server_share(self) -> float:
        """How much of a core the server had: it is always asked for more than it can answer."""
        return self.server_cpu_seconds / self.seconds

    @property
    def own_share(self) -> float:
        """How busy the load generator was, of one core."""
        return self.own_cpu_seconds / self.seconds


def drive(server: RunningServer, connections: int, seconds: float, core: int | None) -> Load:
    """Open sessions on a server, let each call the tool over and over for some time, and say how it went.

    Raises:
        WrongAnswer: An answer was not the right one.
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
        server_cpu, own_cpu, started = _cpu_of(server), time.process_time(), time.perf_counter()
        for client in clients:
            client.call()
        calling, calls = len(clients), 0
        while calling:
            ready = selector.select(TIME_LIMIT)
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
        return Load(calls, elapsed, _cpu_of(server) - server_cpu, time.process_time() - own_cpu)


def _cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
