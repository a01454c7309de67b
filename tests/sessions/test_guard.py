"""The guard around an event log: it measures operations, and turns failures into one error."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from mcp_tornado.sessions import EventLog, SessionError, SessionGone, StoreUnavailable, StreamEnded, guard
from mcp_tornado.sessions.guard import GuardedEventLog, StoreGuard
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.testing.base import deadline

pytestmark = pytest.mark.anyio


class BrokenLog(EventLog):
    """Every operation raises an error, or never returns."""

    def __init__(self, error):
        self._error = error
        self.called = asyncio.Event()

    async def _break(self, *_, **__):
        self.called.set()
        if self._error is None:
            await asyncio.Event().wait()
        raise self._error

    append = read = wait = claim = release = _break


CALLS = {
    "append": lambda log: log.append("@p", "s", {}),
    "read": lambda log: log.read("@p", None),
    "wait": lambda log: log.wait("@p", None, 0),
    "claim": lambda log: log.claim("lease", "me", 1),
    "release": lambda log: log.release("lease", "me"),
}


@pytest.mark.parametrize("failure", [StoreUnavailable(), OSError(), TimeoutError()])
@pytest.mark.parametrize("operation", CALLS)
async def test_a_failing_event_log_is_unavailable_and_counted(metrics, sample, operation, failure):
    log = GuardedEventLog(BrokenLog(failure), StoreGuard(metrics))
    with pytest.raises(SessionError) as caught:
        await CALLS[operation](log)
    assert caught.value.code == "STORE_UNAVAILABLE"
    assert sample("store_errors_total", operation=operation) == 1
    assert sample("store_operation_duration_seconds_count", operation=operation) == 1


@pytest.mark.parametrize("operation", CALLS)
async def test_an_event_log_that_does_not_answer_in_time_is_unavailable(metrics, monkeypatch, operation):
    monkeypatch.setitem(StoreGuard.run.__kwdefaults__, "timeout", 0.01)
    monkeypatch.setattr(guard, "STORE_TIMEOUT_SECONDS", 0.01)
    log = GuardedEventLog(BrokenLog(None), StoreGuard(metrics))
    with pytest.raises(SessionError) as caught:
        await CALLS[operation](log)
    assert caught.value.code == "STORE_UNAVAILABLE"


async def test_only_the_message_of_store_unavailable_is_logged(metrics, logs):
    for failure in (StoreUnavailable("the disk is full"), OSError("secret of a driver"), ValueError("another secret")):
        with pytest.raises((SessionError, ValueError)):
            await CALLS["append"](GuardedEventLog(BrokenLog(failure), StoreGuard(metrics)))
    logged = [(line["error"], line["reason"]) for line in logs.events("store.error")]
    assert logged == [("StoreUnavailable", "the disk is full"), ("OSError", None), ("ValueError", None)]


@pytest.mark.parametrize("answer", [SessionGone, StreamEnded])
async def test_the_errors_of_the_contract_reach_the_caller_and_are_no_failures(metrics, sample, answer):
    log = GuardedEventLog(BrokenLog(answer()), StoreGuard(metrics))
    with pytest.raises(answer):
        await log.append("@p", "s", {})
    assert sample("store_errors_total", operation="append") == 0


async def test_a_wait_longer_than_the_timeout_of_stores_is_no_failure(metrics, sample, clock, monkeypatch):
    monkeypatch.setitem(StoreGuard.run.__kwdefaults__, "timeout", 0.001)
    async with MemoryStore(clock) as store:
        log = GuardedEventLog(store, StoreGuard(metrics))
        assert await log.wait("@p", None, 0.01) is False
    assert sample("store_errors_total", operation="wait") == 0


async def test_a_guarded_event_log_behaves_like_the_log_itself(metrics, clock):
    async with MemoryStore(clock) as store:
        log = GuardedEventLog(store, StoreGuard(metrics))
        first = await log.append("@p", "a", {"n": 1})
        second = await log.append("@p", "b", {"n": 2}, final=True)
        assert await log.read("@p", None) == await store.read("@p", None)
        assert [event.id for event in await log.read("@p", first)] == [second]
        assert [event.id for event in await log.read("@p", None, stream="a")] == [first]
        assert [event.id for event in await log.read("@p", None, limit=1)] == [first]
        assert [event.final for event in await log.read("@p", None)] == [False, True]
        assert await log.wait("@p", first, 30)
        assert await log.claim("lease", "me", 10)
        assert not await log.claim("lease", "you", 10)
        await log.release("lease", "me")
        assert await log.claim("lease", "you", 10)


async def test_a_cancelled_operation_is_no_failure(metrics, sample):
    log = BrokenLog(None)
    task = asyncio.create_task(GuardedEventLog(log, StoreGuard(metrics)).read("@p", None))
    async with deadline("the operation has not started"):
        await log.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sample("store_errors_total", operation="read") == 0


class SlowLog(BrokenLog):
    """Every operation waits in the given ways, and then returns or raises an error."""

    def __init__(self, waits, error=None):
        super().__init__(error)
        self.waits, self.cleaned_up = waits, False

    async def _break(self, *_, **__):
        try:
            for wait in self.waits:
                await wait()
        finally:
            self.cleaned_up = True
        if self._error is not None:
            raise self._error
        return "the result"

    append = read = wait = claim = release = _break


async def in_a_thread():
    await asyncio.to_thread(int, "1")


async def for_one_turn():
    await asyncio.sleep(0)


async def with_timeouts():
    with anyio.fail_after(60):
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await in_a_thread()


async def in_a_task_group():
    async with anyio.create_task_group() as group:
        group.start_soon(for_one_turn)
        group.start_soon(in_a_thread)


WAITS = [[], [for_one_turn], [in_a_thread], [for_one_turn] * 5 + [in_a_thread] * 2, [with_timeouts], [in_a_task_group]]


@pytest.mark.parametrize("waits", WAITS)
async def test_a_result_is_returned_however_the_store_waits_for_it(metrics, sample, waits):
    log = GuardedEventLog(SlowLog(waits), StoreGuard(metrics))
    assert await log.append("@p", "s", {}) == "the result"
    assert sample("store_operation_duration_seconds_count", operation="append") == 1


@pytest.mark.parametrize("waits", WAITS)
async def test_a_failure_after_a_wait_is_handled_like_an_immediate_one(metrics, sample, waits):
    log = GuardedEventLog(SlowLog(waits, StoreUnavailable()), StoreGuard(metrics))
    with pytest.raises(SessionError) as caught:
        await log.append("@p", "s", {})
    assert caught.value.code == "STORE_UNAVAILABLE"
    assert sample("store_errors_total", operation="append") == 1


async def test_a_timeout_inside_the_store_is_unavailable(metrics, sample):
    async def too_long():
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    log = GuardedEventLog(SlowLog([too_long]), StoreGuard(metrics))
    with pytest.raises(SessionError) as caught:
        await log.append("@p", "s", {})
    assert caught.value.code == "STORE_UNAVAILABLE"


@pytest.mark.parametrize("waits", WAITS)
async def test_an_operation_that_times_out_is_cancelled_and_can_clean_up(metrics, monkeypatch, waits):
    monkeypatch.setitem(StoreGuard.run.__kwdefaults__, "timeout", 0.01)

    async def hang():
        await asyncio.Event().wait()

    slow = SlowLog([*waits, hang])
    with pytest.raises(SessionError) as caught:
        await GuardedEventLog(slow, StoreGuard(metrics)).append("@p", "s", {})
    assert caught.value.code == "STORE_UNAVAILABLE"
    assert slow.cleaned_up
    assert asyncio.current_task().cancelling() == 0


async def test_an_operation_that_does_not_wait_does_not_yield_to_the_event_loop(metrics, clock):
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    async with MemoryStore(clock) as store:
        await GuardedEventLog(store, StoreGuard(metrics)).append("@p", "s", {})
    assert turns == []
