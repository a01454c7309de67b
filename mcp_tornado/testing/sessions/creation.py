"""`create` and `get`: the stored session comes back."""

from __future__ import annotations

import asyncio
from datetime import timedelta, timezone
from typing import Any

import pytest

from mcp_tornado.sessions.errors import DuplicateSession
from mcp_tornado.sessions.model import ClientInfo, Session
from mcp_tornado.sessions.store import SessionStore
from mcp_tornado.testing.base import KEY, MakeSession, Pair, StoreContract, keys_of, seconds
from mcp_tornado.testing.clock import FakeClock
from mcp_tornado.testing.sessions.values import STATES, UNENCODABLE


class CreationContract(StoreContract):
    """`create` stores every session exactly, and never overwrites one."""

    async def test_every_field_of_a_session_comes_back(self, store: SessionStore, clock: FakeClock) -> None:
        session = Session(
            key="k" * 43,
            created_at=clock() - seconds(5.000001),
            last_seen_at=clock() + timedelta(microseconds=1),
            expires_at=clock() + seconds(100.123456),
            client=ClientInfo(remote_addr="::1", user_agent="ä/1 🙂", name="name", version="1", unknown={"new": [1]}),
            principal="someone@example.com",
            protocol_version="2025-03-26",
            client_params={"capabilities": {"sampling": {}, "elicitation": {"form": {}}}, "clientInfo": {"name": "ä"}},
            initialized=True,
            journal=(
                {"method": "logging/setLevel", "params": {"level": "info"}},
                {"method": "resources/subscribe", "params": {"uri": "x://ä"}},
            ),
            state={"deep": {"list": [1, None, 2.5, True, "x"]}},
            server_state={"of": {"deep": [1, None, 2.5, True, "ä"]}},
            revision=3,
            unknown={"from a newer version": {"a": 1}},
        )
        await store.create(session)
        assert await store.get(session.key) == session
        assert await store.page(None, 1) == [session]

    async def test_a_session_with_nothing_but_the_least_comes_back(self, store: SessionStore, clock: FakeClock) -> None:
        session = Session(
            key="-",
            created_at=clock(),
            last_seen_at=clock(),
            expires_at=clock() + seconds(1),
            client=ClientInfo(),
            protocol_version="",
        )
        await store.create(session)
        assert await store.get("-") == session

    @pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
    async def test_a_state_comes_back_exactly(
        self, store: SessionStore, make_session: MakeSession, state: dict[str, Any]
    ) -> None:
        await store.create(make_session(state=state))
        changed = await store.update(KEY, {"state": {**state, "changed": True}}, 0)
        assert changed is not None
        assert changed.state == {**state, "changed": True}
        await store.update(KEY, {"state": state}, 1)
        stored = await store.get(KEY)
        assert stored is not None
        assert stored.state == (await store.page(None, 1))[0].state == state
        # 1 == 1.0 == True, and dicts with members in another order are equal: compare the texts too.
        assert repr(stored.state) == repr(state)

    async def test_texts_come_back_exactly(self, store: SessionStore, make_session: MakeSession) -> None:
        text = "ä 日本 🙂 \u0000 \u2028 ' \" \\ $x.y %s {}"
        session = make_session(principal=text, protocol_version=text, client=ClientInfo(name=text, user_agent=text))
        await store.create(session)
        assert await store.get(KEY) == session
        assert await store.count(text) == 1

    @pytest.mark.parametrize("zone", [timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))], ids=str)
    async def test_times_of_any_time_zone_come_back_as_the_same_moments_in_utc(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock, zone: timezone
    ) -> None:
        moment = clock().astimezone(zone)
        await store.create(make_session(created_at=moment, last_seen_at=moment, expires_at=moment + seconds(10)))
        assert await store.touch(KEY, moment + seconds(1), moment + seconds(20))
        stored = await store.get(KEY)
        assert stored is not None
        assert (stored.created_at, stored.last_seen_at, stored.expires_at) == (
            moment,
            moment + seconds(1),
            moment + seconds(20),
        )
        assert {time.utcoffset() for time in (stored.created_at, stored.last_seen_at, stored.expires_at)} == {
            timedelta(0)
        }

    async def test_times_come_back_to_the_microsecond(
        self, store: SessionStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        odd = clock().replace(microsecond=123_457)
        session = make_session(created_at=odd, last_seen_at=odd, expires_at=odd + seconds(100.000_001))
        await store.create(session)
        assert await store.get(KEY) == session
        assert await store.touch(KEY, odd + seconds(1.000_001), odd + seconds(101.000_003))
        stored = await store.get(KEY)
        assert stored is not None
        assert (stored.last_seen_at, stored.expires_at) == (odd + seconds(1.000_001), odd + seconds(101.000_003))

    async def test_a_session_may_live_for_a_century(self, store: SessionStore, make_session: MakeSession) -> None:
        session = make_session(lives=100 * 365 * 86_400)
        await store.create(session)
        assert await store.get(KEY) == session
        assert await store.count() == 1

    async def test_keys_that_are_alike_are_told_apart(self, store: SessionStore, make_session: MakeSession) -> None:
        keys = ["key-0001", "key-0001-and-so-on", "KEY-0001-AND-SO-ON", "key-0001_and-so-on"]
        sessions = [make_session(key=key, principal=key, state={"key": key}) for key in keys]
        for session in sessions:
            await store.create(session)
        assert [await store.get(key) for key in keys] == sessions
        assert [await store.count(key) for key in keys] == [1] * len(keys)
        assert await keys_of(store) == sorted(keys)
        assert await store.delete(keys[1]) is True
        assert await keys_of(store) == sorted(set(keys) - {keys[1]})

    async def test_an_unknown_key_is_nothing(self, store: SessionStore) -> None:
        assert await store.get("unknown") is None

    async def test_creating_never_overwrites(self, store: SessionStore, make_session: MakeSession) -> None:
        first = make_session(state={"mine": 1})
        await store.create(first)
        with pytest.raises(DuplicateSession):
            await store.create(make_session(state={"mine": 2}, principal="other"))
        assert await store.get(KEY) == first
        assert await store.count() == 1
        assert await store.count("other") == 0

    async def test_of_many_who_create_the_same_key_one_succeeds(self, pair: Pair, make_session: MakeSession) -> None:
        results: list[object] = await asyncio.gather(
            *(pair[number % 2].create(make_session(state={"n": number})) for number in range(20)),
            return_exceptions=True,
        )
        assert results.count(None) == 1
        assert sum(isinstance(result, DuplicateSession) for result in results) == 19
        assert (await pair.two.get(KEY)).state == {"n": results.index(None)}

    async def test_a_duplicate_is_told_without_the_whole_key(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        await store.create(make_session())
        with pytest.raises(DuplicateSession) as caught:
            await store.create(make_session())
        assert KEY not in str(caught.value)

    async def test_changing_what_was_given_or_returned_changes_nothing_stored(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        state: dict[str, Any] = {"list": [1]}
        journal: list[dict[str, Any]] = [{"method": "m", "params": {"uri": "a"}}]
        await store.create(make_session(state=state, journal=journal))
        expected = await store.get(KEY)
        state["list"].append(2)
        journal[0]["params"]["uri"] = "b"
        assert await store.get(KEY) == expected
        for returned in [await store.get(KEY), (await store.page(None, 1))[0]]:
            assert returned is not None
            returned.state["list"].append(3)
        assert await store.get(KEY) == expected
        new_state: dict[str, Any] = {"list": [4]}
        updated = await store.update(KEY, {"state": new_state}, 0)
        assert updated is not None
        new_state["list"].append(5)
        updated.state["list"].append(6)
        stored = await store.get(KEY)
        assert stored is not None
        assert stored.state == {"list": [4]}

    @pytest.mark.parametrize("value", UNENCODABLE.values(), ids=UNENCODABLE.keys())
    async def test_a_session_that_is_no_json_leaves_nothing_behind(
        self, store: SessionStore, make_session: MakeSession, value: object
    ) -> None:
        with pytest.raises((TypeError, ValueError)):
            await store.create(make_session(state={"bad": value}, principal="someone"))
        assert (await store.get(KEY), await store.count(), await store.count("someone")) == (None, 0, 0)
        await store.create(make_session(principal="someone"))
        assert await store.count("someone") == 1
