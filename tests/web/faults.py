"""A store whose operations a test can make fail or wait."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from mcp_tornado.stores.memory import memory_store
from tests.web.waiting import wait_for_event

OPERATIONS = (
    "create get touch update delete sweep count page ping append read wait claim release".split()  # noqa: SIM905
)


class Faults:
    """The faults of the operations of one store, and the operations that were called."""

    def __init__(self) -> None:
        self.of: dict[str, BaseException | asyncio.Event | str] = {}
        """By operation, or `*` for all: an exception to raise, an event to wait for, or `hang`."""
        self.calls: list[str] = []
        self._called: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def set_all(self, fault: BaseException | str | None) -> None:
        """Set the fault of all operations; `None` removes all faults."""
        self.of = {} if fault is None else {"*": fault}

    def clear_calls(self) -> None:
        self.calls.clear()
        self._called.clear()

    async def wait_for_call(self, operation: str) -> None:
        """Wait until an operation was called after the last `clear_calls`."""
        await wait_for_event(self._called[operation], f"the store operation {operation} is called")

    async def apply(self, operation: str) -> None:
        """Record a call of an operation, and wait or raise as its fault says."""
        self.calls.append(operation)
        self._called[operation].set()
        fault = self.of.get(operation, self.of.get("*"))
        if fault == "hang":
            await asyncio.Event().wait()
        elif isinstance(fault, asyncio.Event):
            await fault.wait()
        elif isinstance(fault, BaseException):
            raise fault

    def entry_point(self) -> SimpleNamespace:
        """Return the entry point of a store plugin `faulty://`: the memory store with these faults."""

        def make_store(url: str, options: Any, clock: Any) -> Any:
            store = memory_store("memory://", options, clock)
            store.__class__ = faulty = type("FaultyStore", (type(store),), {})
            for name in OPERATIONS:
                setattr(faulty, name, self._with_fault(faulty, name))
            return store

        return SimpleNamespace(name="faulty", dist=None, load=lambda: make_store)

    def _with_fault(self, faulty: type, name: str) -> Any:
        async def operation(store: Any, *args: Any, **kwargs: Any) -> Any:
            await self.apply(name)
            return await getattr(super(faulty, store), name)(*args, **kwargs)

        return operation
