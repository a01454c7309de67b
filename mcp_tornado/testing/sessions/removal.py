"""`delete` and `sweep`."""

from __future__ import annotations

import asyncio

from mcp_tornado.sessions.store import SessionStore
from mcp_tornado.testing.base import KEY, MakeSession, Pair, StoreContract, keys_of, seconds
from mcp_tornado.testing.clock import FakeClock


class RemovalContract(StoreContract):
    """`delete` removes a session once, and `sweep` removes expired sessions only."""

    async def test_deleting_says_whether_there_was_a_session_and_is_idempotent(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        await store.create(make_session(principal="one"))
        assert await store.delete(KEY) is True
        assert await store.delete(KEY) is False
        assert await store.delete("unknown") is False
        assert (await store.get(KEY), await store.count(), await store.count("one")) == (None, 0, 0)

    async def test_of_many_who_delete_a_session_one_did(self, pair: Pair, make_session: MakeSession) -> None:
        await pair.one.create(make_session())
        results = await asyncio.gather(*(pair[number % 2].delete(KEY) for number in range(20)))
        assert sorted(results) == [False] * 19 + [True]

    async def test_a_key_can_be_used_again_after_a_deletion(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        await store.create(make_session(state={"old": 1}, principal="one", revision=7))
        await store.delete(KEY)
        fresh = make_session()
        await store.create(fresh)
        assert await store.get(KEY) == fresh
        assert (await store.count(), await store.count("one")) == (1, 0)

    async def test_a_sweep_removes_what_has_expired_and_no_live_session(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session(key="dead", lives=10, principal="one"))
        live = make_session(key="live", lives=10.000001, principal="one")
        await store.create(live)
        assert await store.sweep(clock(), 100) == 0
        clock.advance(10)
        assert await store.sweep(clock(), 100) == 1
        assert await store.get("dead") is None
        assert await store.get("live") == live
        assert await store.count() == await store.count("one") == 1
        assert await store.sweep(clock(), 100) == 0

    async def test_a_sweep_removes_no_more_than_the_limit(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(10):
            await store.create(make_session(key=f"key-{number}", lives=10))
        clock.advance(50)
        assert await store.sweep(clock(), 4) == 4
        assert sum([await store.get(f"key-{number}") is not None for number in range(10)]) == 6
        assert await store.count() == 0
        assert await store.sweep(clock(), 0) == 0
        assert await store.sweep(clock(), 100) == 6

    async def test_a_touched_session_is_not_swept(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session(key="touched", lives=10))
        await store.create(make_session(key="left alone", lives=10))
        clock.advance(9)
        assert await store.touch("touched", clock(), clock() + seconds(10))
        clock.advance(5)
        assert await store.sweep(clock(), 100) == 1
        assert await keys_of(store) == ["touched"]
        clock.advance(5)
        assert await store.sweep(clock(), 100) == 1
        assert await store.get("touched") is None

    async def test_a_sweep_checks_each_session_again_before_it_removes_it(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        """The clock of the caller of `sweep` may be ahead. A session that is touched during the sweep must stay."""
        keys = [f"key-{number:02}" for number in range(20)]
        for key in keys:
            await pair.one.create(make_session(key=key, lives=10))
        later = clock() + seconds(1000)
        removed, *touched = await asyncio.gather(
            pair.two.sweep(clock() + seconds(20), 100), *(pair.one.touch(key, clock(), later) for key in keys)
        )
        left = await keys_of(pair.one)
        assert left == [key for key, alive in zip(keys, touched, strict=True) if alive]
        assert removed + len(left) == len(keys)

    async def test_a_sweep_leaves_what_had_not_expired_at_the_moment_it_is_given(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        earlier = clock()
        session = make_session(lives=10)
        await store.create(session)
        clock.advance(15)
        assert await store.sweep(earlier, 10) == 0
        assert await store.sweep(clock(), 10) == 1, "the first sweep has not removed it"

    async def test_two_sweeps_at_once_remove_each_session_once(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(100):
            await pair.one.create(make_session(key=f"key-{number}", lives=1 + number % 7, principal="one"))
        clock.advance(20)
        assert sum(await asyncio.gather(*(pair[number % 2].sweep(clock(), 60) for number in range(4)))) == 100
        assert await pair.one.count("one") == await pair.two.count() == 0

    async def test_a_session_stored_after_its_expiry_is_swept(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session(lives=-10))
        assert await store.count() == 0
        assert await store.sweep(clock(), 10) == 1
        assert await store.get(KEY) is None
