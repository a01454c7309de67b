"""`count` and `page`: live sessions only."""

from __future__ import annotations

from mcp_tornado.sessions.store import SessionStore
from mcp_tornado.testing.base import MakeSession, StoreContract, keys_of
from mcp_tornado.testing.clock import FakeClock


class ListingContract(StoreContract):
    """`count` and `page` see the live sessions."""

    async def test_expired_sessions_are_not_counted_and_not_listed_before_they_are_swept(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await store.create(make_session(key="dead", lives=10, principal="one"))
        await store.create(make_session(key="live", lives=20, principal="one"))
        clock.advance(10)
        assert (await store.count(), await store.count("one")) == (1, 1)
        assert await keys_of(store) == ["live"]

    async def test_counting_is_for_everybody_or_for_one_principal(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        for number, principal in enumerate(["one", "one", "two", None, ""]):
            await store.create(make_session(key=f"key-{number}", principal=principal))
        assert await store.count() == 5
        assert [await store.count(principal) for principal in ("one", "two", "three", "")] == [2, 1, 0, 1]

    async def test_counts_hold_when_sessions_come_expire_and_are_swept(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(30):
            await store.create(make_session(key=f"key-{number}", lives=1 + number, principal=f"p{number % 3}"))
        for elapsed in range(1, 31):
            clock.advance(1)
            assert await store.count() == 30 - elapsed
            if elapsed % 5 == 0:
                await store.sweep(clock(), 2)
            assert sum([await store.count(f"p{number}") for number in range(3)]) == 30 - elapsed

    async def test_pages_are_in_key_order_after_the_given_key(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        for key in ["b", "d", "a", "C", "-", "_", "e"]:
            await store.create(make_session(key=key))
        assert await keys_of(store) == ["-", "C", "_", "a", "b", "d", "e"]
        assert await keys_of(store, limit=2) == ["-", "C"]
        assert await keys_of(store, after="C", limit=2) == ["_", "a"]
        assert await keys_of(store, after="c", limit=2) == ["d", "e"], "no session has this key"
        assert await keys_of(store, after="e") == []
        assert await keys_of(store, limit=0) == []

    async def test_a_page_is_full_although_some_sessions_have_expired(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        for number in range(30):
            await store.create(make_session(key=f"key-{number:02}", lives=10 if number % 3 else 100))
        clock.advance(10)
        assert await keys_of(store, limit=5) == ["key-00", "key-03", "key-06", "key-09", "key-12"]

    async def test_paging_shows_every_session_that_stays_once_while_others_come_and_go(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        staying = [f"{number:02}-stays" for number in range(20)]
        going = [f"{number:02}-goes" for number in range(20)]
        for key in staying + going:
            await store.create(make_session(key=key))
        seen: list[str] = []
        after: str | None = None
        while page := await keys_of(store, after, 3):
            seen += page
            assert len(seen) == len(set(seen)), "no session is returned twice"
            after = page[-1]
            if going:
                await store.delete(going.pop())
                await store.delete(after)
                await store.create(make_session(key=f"{after}-later"))
        assert [key for key in staying if key not in seen] == []
        assert seen == sorted(seen)
