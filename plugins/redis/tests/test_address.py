"""URLs and options that the factory accepts and refuses; no server is needed."""

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
def test_a_url_names_the_server_and_the_database(url, name, database):
    address = Address.parse(url)
    assert (address.name, address.database) == (name, database)
    assert SECRET not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        # A special character in the password is not encoded: a part of the password looks like another part of the URL.
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
        # These parameters would make redis-py send commands twice, or return answers in another form.
        f"redis://user:{SECRET}@host?retry_on_timeout=true",
        f"redis://user:{SECRET}@host?decode_responses=true",
        f"redis://user:{SECRET}@host?protocol=3",
        # This parameter has no effect without TLS.
        f"redis://user:{SECRET}@host?ssl_ca_certs=/ca.pem",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_quoted(url, clock):
    with pytest.raises(ValueError, match="the URL of the store") as caught:
        redis_store(url, {}, clock)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("options", "message"), [({"prefixes": "x"}, "prefixes"), ({"prefix": 1}, "prefix"), ({"events": {"no": 1}}, "no")]
)
def test_an_unknown_or_wrong_option_is_refused(options, message, clock):
    with pytest.raises(ValueError, match=message):
        redis_store("redis://host", options, clock)


def test_the_factory_is_annotated_with_the_class_that_it_returns(clock):
    assert typing.get_type_hints(redis_store)["return"] is RedisStore
    assert isinstance(redis_store("rediss://host", {"events": {"max_bytes": 1}, "prefix": "p"}, clock), RedisStore)
