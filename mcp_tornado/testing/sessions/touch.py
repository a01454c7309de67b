"""`touch`: times move forward only, and only those of live sessions."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from mcp_tornado.sessions.model import to_microseconds
from mcp_tornado.sessions.store import SessionStore
from mcp_tornado.testing.base import KEY, MakeSession, Pair, StoreContract, keys_of, seconds
from mcp_tornado.testing.clock import FakeClock


class TouchContract(StoreContract):
    """`touch` moves the times of live sessions forward, and no operation makes an ended session live again."""

    async def test_a_touch_moves_both_times_and_nothing_else(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        session = make_session(state={"a": 1}, revision=4)
        await store.create(session)
        now = clock.advance(10)
        assert await store.touch(KEY, now, now + seconds(200)) is True
        touched = dataclasses.replace(session, last_seen_at=now, expires_at=now + seconds(200))
        assert await store.get(KEY) == touched
        assert await store.page(None, 1) == [touched]

    async def test_a_touch_with_the_same_times_succeeds(self, store: SessionStore, make_session: MakeSession) -> None:
        session = make_session()
        await store.create(session)
        assert await store.touch(KEY, session.last_seen_at, session.expires_at) is True
        assert await store.get(KEY) == session

    async def test_a_touch_of_an_unknown_session_makes_none(self, store: SessionStore, clock: FakeClock) -> None:
        assert await store.touch("unknown", clock(), clock() + seconds(100)) is False
        assert await store.get("unknown") is None
        assert await store.count() == 0

    @pytest.mark.parametrize(("seen", "expires"), [(-0.000001, 0), (0, -0.000001), (-5, 50), (5, -50)])
    async def test_a_touch_never_moves_a_time_backwards(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock, seen: float, expires: float
    ) -> None:
        clock.advance(50)
        session = make_session()
        await store.create(session)
        later = session.last_seen_at + seconds(seen), session.expires_at + seconds(expires)
        assert await store.touch(KEY, *later) is False
        assert await store.get(KEY) == session

    async def test_touches_that_arrive_out_of_order_leave_the_latest(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await pair.one.create(make_session(lives=1000))
        clock.advance(100)
        moments = [clock() - seconds(age) for age in (30, 10, 50, 0, 20)]
        await asyncio.gather(
            *(pair[number % 2].touch(KEY, at, at + seconds(2000)) for number, at in enumerate(moments))
        )
        stored = await pair.one.get(KEY)
        assert (stored.last_seen_at, stored.expires_at) == (clock(), clock() + seconds(2000))

    async def test_a_session_lives_until_its_expiry_exactly(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        session = make_session(lives=100, principal="someone")
        await store.create(session)
        clock.advance(99.999999)
        assert await store.count() == await store.count("someone") == 1
        assert await keys_of(store) == [KEY]
        assert await store.touch(KEY, session.last_seen_at, session.expires_at)
        clock.advance(microseconds=1)
        assert await store.count() == await store.count("someone") == 0
        assert await keys_of(store) == []
        assert not await store.touch(KEY, clock(), clock() + seconds(100))

    async def test_a_touch_never_resurrects_an_expired_session(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        session = make_session(principal="someone")
        await store.create(session)
        clock.advance(100)
        assert await store.touch(KEY, clock(), clock() + seconds(100)) is False
        assert await store.get(KEY) in (None, session)
        assert (await store.count(), await store.count("someone"), await store.page(None, 10)) == (0, 0, [])

    async def test_an_update_never_resurrects_an_expired_session(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        session = make_session(principal="someone")
        await store.create(session)
        clock.advance(100)
        later = to_microseconds(clock() + seconds(100))
        assert await store.update(KEY, {"expires_at": later}, 0) is None
        assert await store.get(KEY) in (None, session)
        assert (await store.count(), await store.count("someone"), await store.page(None, 10)) == (0, 0, [])

    async def test_a_deleted_session_is_not_resurrected(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session())
        await store.delete(KEY)
        assert await store.touch(KEY, clock(), clock() + seconds(100)) is False
        assert await store.update(KEY, {"initialized": True}, 0) is None
        assert await store.get(KEY) is None
        assert await store.count() == 0

    async def test_a_touch_that_races_with_a_deletion_resurrects_nothing(
        self, pair: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(20):
            key = f"key-{number}"
            await pair.one.create(make_session(key=key))
            later = clock() + seconds(200)
            await asyncio.gather(
                pair.one.touch(key, clock(), later), pair.two.delete(key), pair.one.touch(key, clock(), later)
            )
            assert await pair.one.get(key) is None
        assert await pair.two.count() == 0
