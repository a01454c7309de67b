"""The simulated link between a process and the store."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from mcp_tornado.sessions.errors import StoreError
from mcp_tornado.sessions.ids import is_process_key
from mcp_tornado.stores.memory import MemoryStore

_LATENCIES_SECONDS: Final = (None, None, 0, 0, 0.001, 0.003, 0.02)
"""The latencies of one direction. 0 yields to the event loop once; `None` does not yield."""


class StoreLink:
    """The link of one process to the store. The process uses it as its store.

    An operation takes a random time on the way to the store and on the way back, so the operations of several processes
    overtake each other. While the link is partitioned, operations wait.

    Args:
        store: The store.
        seed: Decides the latencies.
        process_keys: Collects the keys of the process logs that this process has written to.
    """

    def __init__(self, store: MemoryStore, seed: int, process_keys: set[str]) -> None:
        self._store = store
        self._random = random.Random(seed)
        self._process_keys = process_keys
        self._healthy = asyncio.Event()
        self._healthy.set()

    def __getattr__(self, name: str):
        operation = getattr(self._store, name)

        async def forward(*args, **kwargs):
            await self._transmit()
            if name == "append" and is_process_key(args[0]):
                self._process_keys.add(args[0])
            try:
                result = await operation(*args, **kwargs)
            except StoreError:
                await self._transmit()
                raise
            await self._transmit()
            return result

        return forward

    def partition(self) -> None:
        """Stop all operations, in both directions."""
        self._healthy.clear()

    def heal(self) -> None:
        """Let operations continue, including those that have waited."""
        self._healthy.set()

    async def _transmit(self) -> None:
        latency = self._random.choice(_LATENCIES_SECONDS)
        if latency is not None:
            await asyncio.sleep(latency)
        await self._healthy.wait()
