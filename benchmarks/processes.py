"""What a shared store, a proxy and a second process add to a call, in time and in round trips to the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from statistics import median

from anyio.from_thread import start_blocking_portal

from benchmarks.asked import AskedClient
from benchmarks.backends import Backend, RoundTrips, backends, counted
from benchmarks.balanced import balanced
from benchmarks.client import Client
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.servers import asking_on, running

SILENT = "silent call"
ASKING = "call that asks"
"""The two kinds of call: of a tool that only answers, and of one that asks the client something. Where two processes
take turns, the client's answer arrives at the one that does not wait for it."""

DIRECT = "one process"
BEHIND_PROXY = "one behind the proxy"
TWO_BEHIND_PROXY = "two behind the proxy"

MORE_TO_COUNT = 5
"""So many times the calls of a round are counted: heartbeats, which do not come evenly, are to weigh little."""

Call = Callable[[], None]
"""Makes one call and waits for its end; one client calls one server, time after time."""


def run(scale: Scale) -> Iterator[Line]:
    """Time one call after the other, in turns on all stores; then count on each store that has a server."""
    with backends() as found:
        for kind, times in measure(found, scale).items():
            yield from _compared(kind, times)
        for backend in found:
            if backend.port is not None:
                yield from _counts(backend, backend.port, scale)


def measure(found: list[Backend], scale: Scale) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of every call, by what was called and by who answered; the base comes first."""
    with ExitStack() as stack:
        callers: dict[str, Mapping[str, Call]] = {}
        memory, *shared = found
        server = stack.enter_context(running(asking_on(memory.at(None)), core=None))
        callers[f"{memory.name}, {DIRECT}"] = stack.enter_context(_callers(server.port))
        for backend in shared:
            for setup, port in stack.enter_context(_setups(backend.at(backend.port))).items():
                callers[f"{backend.name}, {setup}"] = stack.enter_context(_callers(port))
        times: dict[str, dict[str, list[float]]] = {}
        for kind, calls in _sizes(scale).items():
            times[kind] = {name: [] for name in callers}
            for call in callers.values():
                _times(call[kind], calls // 2)  # warm up
            for _ in range(scale.process_rounds):
                for name, call in callers.items():
                    times[kind][name].extend(_times(call[kind], calls))
        return times


def _sizes(scale: Scale) -> dict[str, int]:
    """Return how many calls of each kind a round has."""
    return {SILENT: scale.silent_calls, ASKING: scale.asking_calls}


@contextmanager
def _setups(store: str) -> Generator[dict[str, int]]:
    """Serve from a store in each way, and give the port of each.

    The second process is there in all of them; where it is not asked, it has only its heartbeat to keep up.
    """
    with ExitStack() as stack:
        first, second = (stack.enter_context(running(asking_on(store), core=None)).port for _ in range(2))
        yield {
            DIRECT: first,
            BEHIND_PROXY: stack.enter_context(balanced([first])),
            TWO_BEHIND_PROXY: stack.enter_context(balanced([first, second])),
        }


@contextmanager
def _callers(port: int) -> Generator[Mapping[str, Call]]:
    """Open a session for each kind of call."""
    client = Client(port)
    with closing(client.socket), closing(AskedClient(port)) as asked:
        client.open_session()
        asked.open_session()

        def silent() -> None:
            client.call()
            while not client.receive():
                pass

        yield {SILENT: silent, ASKING: asked.call}


def _times(call: Call, calls: int) -> list[float]:
    times: list[float] = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def _compared(kind: str, times: Mapping[str, list[float]]) -> Iterator[Line]:
    base, *_ = (median(taken) for taken in times.values())
    for name, taken in times.items():
        added, ratio = median(taken) - base, median(taken) / base
        note = f"{added * 1000:+.2f} ms, {ratio:.2f} times memory"
        yield Line(f"{kind}: {name}", f"{median(taken) * 1000:.2f} ms", note=note)


def _counts(backend: Backend, port: int, scale: Scale) -> Iterator[Line]:
    """Count the round trips of calls, through a proxy before the store's server."""
    with _counted(port) as (through, trips), _setups(backend.at(through)) as ports:
        for setup in (DIRECT, TWO_BEHIND_PROXY):
            with _callers(ports[setup]) as callers:
                for kind, calls in _sizes(scale).items():
                    count = _trips(callers[kind], MORE_TO_COUNT * calls, trips)
                    what, figure = f"{kind}: {backend.name}, {setup}", f"{count:.2f} round trips"
                    if kind == SILENT:
                        yield Line(what, figure, "1, rounded", round(count) == 1)
                    else:
                        yield Line(what, figure)


@contextmanager
def _counted(port: int) -> Generator[tuple[int, RoundTrips]]:
    """Do as `counted` does, in a thread of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(counted(port)) as counting:
        yield counting


def _trips(call: Call, calls: int, trips: RoundTrips) -> float:
    """Return the round trips of one call, without those that there are in the same time anyway.

    Those are not quite as many while the machine is busy with calls; on nx-27017, which lets nobody wait for changes
    but says at once that there are none, that shows.
    """
    before, started = trips.count, time.monotonic()
    for _ in range(calls):
        call()
    with_calls, seconds = trips.count - before, time.monotonic() - started
    before = trips.count
    time.sleep(seconds)
    return (with_calls - (trips.count - before)) / calls
