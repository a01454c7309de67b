"""The indexes that are made at every start, and those that are in the way."""

from __future__ import annotations

import pytest

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

WANTED = {
    "sessions": {("times.expires",): 300, ("times.expires_at",): None, ("principal", "times.expires_at"): None},
    "events": {("expires",): 300},
    "leases": {("times.expires",): 300},
}


def indexes_of(database):
    return {
        name: {
            tuple(field for field, _ in index["key"]): index.get("expireAfterSeconds")
            for index in database[name].index_information().values()
            if index["key"] != [("_id", 1)]
        }
        for name in WANTED
    }


async def test_the_indexes_are_made_and_what_was_dropped_is_made_again(place):
    make_store, database = place
    async with make_store():
        assert indexes_of(database) == WANTED
    for name in WANTED:
        database[name].drop_indexes()
    for _ in range(2):
        async with make_store():
            assert indexes_of(database) == WANTED


async def in_the_way(place, collection, keys, **options):
    """Make an index, try to enter a store, and return what it says; then drop the index and enter again."""
    make_store, database = place
    there = database[collection].create_index(keys, **options)
    with pytest.raises(StoreUnavailable) as caught:
        await make_store().__aenter__()
    for name, index in database[collection].index_information().items():
        if index["key"] == keys:
            there = name  # nx-27017 gives indexes names of its own
    database[collection].drop_index(there)
    async with make_store() as store:
        await store.ping()
    message = str(caught.value)
    assert f"{database.name}.{collection}" in message
    assert f'"{there}"' in message
    assert "drop" in message
    return message


@pytest.mark.parametrize("options", [{"expireAfterSeconds": 60}, {}, {"expireAfterSeconds": 300, "unique": True}])
@pytest.mark.parametrize(
    ("collection", "field"), [("sessions", "times.expires"), ("events", "expires"), ("leases", "times.expires")]
)
async def test_an_index_in_the_way_is_named_with_what_to_do(place, collection, field, options):
    message = await in_the_way(place, collection, [(field, 1)], name="mine", **options)
    assert "'expireAfterSeconds': 300" in message


async def test_an_index_of_other_keys_that_has_the_name_is_in_the_way(mongomocked):
    """Not on nx-27017, which gives indexes names of its own."""
    await in_the_way(mongomocked, "sessions", [("user", 1)], name="ttl")


async def test_an_index_that_does_the_same_under_another_name_will_do(place):
    make_store, database = place
    database["sessions"].create_index([("times.expires", 1)], name="mine", expireAfterSeconds=300)
    database["sessions"].create_index([("user", 1)], name="yours")
    async with make_store():
        assert indexes_of(database)["sessions"] == {**WANTED["sessions"], ("user",): None}
