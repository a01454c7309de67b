"""What the factory takes and what it refuses, without any server."""

from __future__ import annotations

import traceback
import typing

import pytest
from mcp_tornado_redis import RedisStore, redis_store
from mcp_tornado_redis.address import Address

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "name", "database"),
    [
        ("redis://", "localhost", 0),
        ("redis://host", "host", 0),
        ("redis://host:6380/7", "host:6380", 7),
        ("redis://host:6380?db=7", "host:6380", 7),
        (f"redis://user:{SECRET}@host:6380/", "host:6380", 0),
        (f"redis://:{SECRET}%2F%23%3F%40@host/1", "host", 1),
        ("redis://[::1]:6380/1", "[::1]:6380", 1),
        (f"rediss://user:{SECRET}@host:6380/2?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required", "host:6380", 2),
        ("redis://host?socket_timeout=1&socket_connect_timeout=0.5&max_connections=3&client_name=me", "host", 0),
    ],
)
def test_a_url_says_where_the_data_is(url, name, database):
    address = Address.of(url)
    assert (address.name, address.database) == (name, database)
    assert SECRET not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        # What should have been encoded in a password makes an address of a part of it.
        f"redis://user:{SECRET}/x@host:6379/0",
        f"redis://user:12/{SECRET}@host",
        f"redis://user:12#{SECRET}@host",
        f"redis://user:12?{SECRET}@host",
        f"redis://user:12?db={SECRET}@host",
        f"redis://user:12?client_name={SECRET}@host",
        f"redis://user:{SECRET}[@host",
        f"redis://host:{SECRET}",
        f"redis://host:99999/{SECRET}",
        f"redis://user:{SECRET}@host:0",
        f"redis://user:{SECRET}@host/name",
        f"redis://user:{SECRET}@host/0/1",
        f"redis://user:{SECRET}@host/-1",
        f"redis://user:{SECRET}@host?db=x",
        f"redis://user:{SECRET}@host?{SECRET}=1",
        f"redis://user:{SECRET}@host?{SECRET}",
        f"redis://user:{SECRET}@host?socket_timeout=soon",
        f"redis://user:{SECRET}@host?socket_timeout=0",
        f"redis://user:{SECRET}@host?socket_timeout=nan",
        f"redis://user:{SECRET}@host?socket_connect_timeout=inf",
        f"redis://user:{SECRET}@host?max_connections=-1",
        f"redis://user:{SECRET}@host#fragment",
        f"rediss://user:{SECRET}@host?ssl_cert_reqs={SECRET}",
        # These would have redis-py send commands twice, or answer in another form.
        f"redis://user:{SECRET}@host?retry_on_timeout=true",
        f"redis://user:{SECRET}@host?decode_responses=true",
        f"redis://user:{SECRET}@host?protocol=3",
        # Without TLS these would mean nothing.
        f"redis://user:{SECRET}@host?ssl_ca_certs=/ca.pem",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_a_word_of_it(url, clock):
    with pytest.raises(ValueError, match="the URL of the store") as caught:
        redis_store(url, {}, clock)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("options", "said"), [({"prefixes": "x"}, "prefixes"), ({"prefix": 1}, "prefix"), ({"events": {"no": 1}}, "no")]
)
def test_an_option_that_there_is_not_is_refused(options, said, clock):
    with pytest.raises(ValueError, match=said):
        redis_store("redis://host", options, clock)


def test_the_factory_says_what_it_makes(clock):
    assert typing.get_type_hints(redis_store)["return"] is RedisStore
    assert isinstance(redis_store("rediss://host", {"events": {"max_bytes": 1}, "prefix": "p"}, clock), RedisStore)
