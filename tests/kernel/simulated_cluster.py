"""A simulated cluster: several processes that share a store, on one event loop with simulated time.

The simulation never sleeps: if no task is ready, the time jumps to the next timer. The operations of the store have
random latencies, so that processes overtake each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from mcp.server.lowlevel.server import Server

from mcp_tornado import log
from mcp_tornado.sessions import manager as manager_module
from mcp_tornado.sessions.store import EventBounds
from mcp_tornado.stores.memory import MemoryStore
from tests.kernel.simulated_loop import SimulatedLoop, destroy
from tests.kernel.simulated_process import SimulatedProcess
from tests.kernel.store_link import StoreLink

_MODULES_WITH_SIMULATED_TIME: Final = (
    "mcp_tornado.cluster.",
    "mcp_tornado.hosting.",
    "mcp_tornado.kernel.",
    "mcp_tornado.streams.",
    "tenacity",
)
"""Prefixes of the names of modules whose `time` is simulated."""


class SimulatedCluster:
    """The event loop, the store and the processes.

    Args:
        make_server: Makes the server object of a process.
        seed: Decides the latencies and everything else that is random in the cluster.
    """

    def __init__(self, make_server: Callable[[], Server[Any]], seed: int) -> None:
        self._make_server = make_server
        self._random = random.Random(seed)
        self.loop = SimulatedLoop()
        self.store = MemoryStore(self.loop.clock, EventBounds(max_per_session=10**6, max_bytes=10**9))
        self._started: list[SimulatedProcess] = []
        self.process_keys: set[str] = set()
        """The keys of all logs that belong to processes: the mailboxes, and the logs that all processes share."""
        self._patches = contextlib.ExitStack()
        simulated_time = SimpleNamespace(monotonic=self.loop.time, perf_counter=time.perf_counter)
        for name, module in list(sys.modules.items()):
            if name.startswith(_MODULES_WITH_SIMULATED_TIME) and getattr(module, "time", None) is time:
                self._patches.enter_context(mock.patch.object(module, "time", simulated_time))
        self._patches.enter_context(mock.patch.object(log, "_threshold", logging.CRITICAL))
        self._patches.enter_context(mock.patch.object(secrets, "token_hex", self._token))
        self._patches.enter_context(mock.patch.object(manager_module, "new_session_id", self._token))
        self.run(self.store.__aenter__())

    @property
    def processes(self) -> list[SimulatedProcess]:
        """The processes that are alive, the oldest first."""
        return [process for process in self._started if process.is_alive]

    def _token(self, size: int = 16) -> str:
        return self._random.randbytes(size).hex()

    def run(self, work):
        """Run a coroutine to its end and return its result. All other tasks of the cluster run too.

        Raises:
            AssertionError: A fault was reported.
        """
        result = self.loop.run_until_complete(work)
        assert not self.loop.faults, "\n".join(self.loop.faults)
        return result

    def start(self) -> SimulatedProcess:
        """Start a process and return it."""
        link = StoreLink(self.store, self._random.getrandbits(32), self.process_keys)
        process = SimulatedProcess(self._make_server(), link, self.loop)
        self.run(process.start())
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kill the processes, end all tasks and restore what was patched."""
        for process in self.processes:
            self.loop.run_until_complete(process.kill())
        self.loop.run_until_complete(destroy(asyncio.all_tasks))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        self._patches.close()
