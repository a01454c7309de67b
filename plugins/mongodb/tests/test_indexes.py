"""The indexes of the store: created when it is entered, and in conflict with other indexes."""

from __future__ import annotations

import pytest

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

REQUIRED = {
    "sessions": {("times.expires",): 300, ("times.expires_at",): None, ("principal", "times.expires_at"): None},
    "events": {("expires",): 300},
    "leases": {("times.expires",): 300},
}


def list_indexes(database):
    return {
        name: {
            tuple(field for field, _ in index["key"]): index.get("expireAfterSeconds")
            for index in database[name].index_information().values()
            if index["key"] != [("_id", 1)]
        }
        for name in REQUIRED
    }


async def test_missing_indexes_are_created_at_every_entering(backend):
    make_store, database = backend
    async with make_store():
        assert list_indexes(database) == REQUIRED
    for name in REQUIRED:
        database[name].drop_indexes()
    for _ in range(2):
        async with make_store():
            assert list_indexes(database) == REQUIRED


async def enter_with_conflict(backend, collection, keys, **options):
    """Create an index, try to enter a store, and return the message; then drop the index and enter again."""
    make_store, database = backend
    name = database[collection].create_index(keys, **options)
    with pytest.raises(StoreUnavailable) as caught:
        await make_store().__aenter__()
    for listed_name, index in database[collection].index_information().items():
        if index["key"] == keys:
            name = listed_name  # nx-27017 chooses the names of indexes itself
    database[collection].drop_index(name)
    async with make_store() as store:
        await store.ping()
    message = str(caught.value)
    assert f"{database.name}.{collection}" in message
    assert f'"{name}"' in message
    assert "drop" in message
    return message


@pytest.mark.parametrize("options", [{"expireAfterSeconds": 60}, {}, {"expireAfterSeconds": 300, "unique": True}])
@pytest.mark.parametrize(
    ("collection", "field"), [("sessions", "times.expires"), ("events", "expires"), ("leases", "times.expires")]
)
async def test_a_conflicting_index_is_named_with_what_to_do(backend, collection, field, options):
    message = await enter_with_conflict(backend, collection, [(field, 1)], name="mine", **options)
    assert "'expireAfterSeconds': 300" in message


async def test_an_index_on_other_keys_with_the_same_name_is_a_conflict(mongomock_backend):
    """Not on nx-27017, which chooses the names of indexes itself."""
    await enter_with_conflict(mongomock_backend, "sessions", [("user", 1)], name="ttl")


async def test_an_equal_index_with_another_name_is_used(backend):
    make_store, database = backend
    database["sessions"].create_index([("times.expires", 1)], name="mine", expireAfterSeconds=300)
    database["sessions"].create_index([("user", 1)], name="yours")
    async with make_store():
        assert list_indexes(database)["sessions"] == {**REQUIRED["sessions"], ("user",): None}
