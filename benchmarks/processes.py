"""Time and round trips to the store that a shared store, a proxy and a second process add to a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from statistics import median

from anyio.from_thread import start_blocking_portal

from benchmarks.answering_client import AnsweringClient
from benchmarks.backends import Backend, RoundTrips, count_round_trips, start_backends
from benchmarks.balancer import run_balancer
from benchmarks.client import Client
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.servers import make_asking_contender, run_server

SILENT = "silent call"
ASKING = "call that asks"
"""The two kinds of call: of a tool that only returns a result, and of a tool that asks the client a question. If two
processes take turns, the answer of the client arrives at the process that does not wait for it."""

DIRECT = "one process"
BEHIND_PROXY = "one behind the proxy"
TWO_BEHIND_PROXY = "two behind the proxy"

COUNTED_ROUNDS = 5
"""Number of rounds over which round trips are counted, so that the irregular heartbeats have little weight."""

Call = Callable[[], None]
"""Makes one call and waits for its end; the calls of a client go to one server."""


def run(scale: Scale) -> Iterator[Line]:
    """Measure the time of single calls, on all stores in turn; then count the round trips to each server."""
    with start_backends() as backends:
        for kind, times in measure(backends, scale).items():
            yield from _compare(kind, times)
        for backend in backends:
            if backend.port is not None:
                yield from _count(backend, backend.port, scale)


def measure(backends: list[Backend], scale: Scale) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of every call, by the kind of call and by the store and setup; the base comes first."""
    with ExitStack() as stack:
        callers: dict[str, Mapping[str, Call]] = {}
        memory, *shared = backends
        server = stack.enter_context(run_server(make_asking_contender(memory.url_at(None)), core=None))
        callers[f"{memory.name}, {DIRECT}"] = stack.enter_context(_open_callers(server.port))
        for backend in shared:
            for setup, port in stack.enter_context(_start_setups(backend.url_at(backend.port))).items():
                callers[f"{backend.name}, {setup}"] = stack.enter_context(_open_callers(port))
        times: dict[str, dict[str, list[float]]] = {}
        for kind, calls in _calls_per_round(scale).items():
            times[kind] = {name: [] for name in callers}
            for call in callers.values():
                _measure_times(call[kind], calls // 2)  # warm up
            for _ in range(scale.process_rounds):
                for name, call in callers.items():
                    times[kind][name].extend(_measure_times(call[kind], calls))
        return times


def _calls_per_round(scale: Scale) -> dict[str, int]:
    """Return the number of calls of each kind in a round."""
    return {SILENT: scale.silent_calls, ASKING: scale.asking_calls}


@contextmanager
def _start_setups(store: str) -> Generator[dict[str, int]]:
    """Run the servers on a store and the proxies before them, and give the port of each setup.

    The second process runs in all setups. In those that do not use it, it only sends its heartbeats.
    """
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(run_server(make_asking_contender(store), core=None)).port for _ in range(2)
        )
        yield {
            DIRECT: first,
            BEHIND_PROXY: stack.enter_context(run_balancer([first])),
            TWO_BEHIND_PROXY: stack.enter_context(run_balancer([first, second])),
        }


@contextmanager
def _open_callers(port: int) -> Generator[Mapping[str, Call]]:
    """Open a session for each kind of call."""
    client = Client(port)
    with closing(client.socket), closing(AnsweringClient(port)) as answering_client:
        client.open_session()
        answering_client.open_session()

        def call_silently() -> None:
            client.call()
            while not client.receive():
                pass

        yield {SILENT: call_silently, ASKING: answering_client.call}


def _measure_times(call: Call, calls: int) -> list[float]:
    times: list[float] = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def _compare(kind: str, times: Mapping[str, list[float]]) -> Iterator[Line]:
    base, *_ = (median(taken) for taken in times.values())
    for name, taken in times.items():
        added, ratio = median(taken) - base, median(taken) / base
        note = f"{added * 1000:+.2f} ms, {ratio:.2f} times memory"
        yield Line(f"{kind}: {name}", f"{median(taken) * 1000:.2f} ms", note=note)


def _count(backend: Backend, port: int, scale: Scale) -> Iterator[Line]:
    """Count the round trips of calls, with a proxy before the server of the store."""
    with _count_in_thread(port) as (proxy_port, trips), _start_setups(backend.url_at(proxy_port)) as ports:
        for setup in (DIRECT, TWO_BEHIND_PROXY):
            with _open_callers(ports[setup]) as callers:
                for kind, calls in _calls_per_round(scale).items():
                    count = _measure_round_trips(callers[kind], COUNTED_ROUNDS * calls, trips)
                    what, figure = f"{kind}: {backend.name}, {setup}", f"{count:.2f} round trips"
                    if kind == SILENT:
                        yield Line(what, figure, "1, rounded", round(count) == 1)
                    else:
                        yield Line(what, figure)


@contextmanager
def _count_in_thread(port: int) -> Generator[tuple[int, RoundTrips]]:
    """Run `count_round_trips` in a thread of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(count_round_trips(port)) as counter:
        yield counter


def _measure_round_trips(call: Call, calls: int, trips: RoundTrips) -> float:
    """Return the round trips of one call, without those that the servers make in the same time without calls.

    While the machine is busy with calls, the servers make slightly fewer of those. This is visible on nx-27017, which
    answers at once that there are no changes, so that the stores ask it often.
    """
    before, started = trips.count, time.monotonic()
    for _ in range(calls):
        call()
    with_calls, seconds = trips.count - before, time.monotonic() - started
    before = trips.count
    time.sleep(seconds)
    return (with_calls - (trips.count - before)) / calls
