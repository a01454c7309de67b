"""What the factory takes and refuses, without asking any server."""

from __future__ import annotations

import sys
import typing

import pytest
from mcp_tornado_mongodb import MongoStore, mongodb_store
from mcp_tornado_mongodb.deployment import Deployment
from pymongo.write_concern import WriteConcern

from mcp_tornado.stores import EventBounds
from mcp_tornado.stores.plugins import StorePluginError, open_store

NOWHERE = "mongodb://u%40:hunter2@127.0.0.1:1/mine"


def made(url=NOWHERE, **options):
    return mongodb_store(url, options, None)


def refusal(url=NOWHERE, **options):
    with pytest.raises(ValueError) as caught:
        made(url, **options)
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
def test_both_schemes_lead_to_the_store(scheme, clock):
    assert isinstance(open_store(f"{scheme}://cluster.example.com/x", {}, clock), MongoStore)
    assert typing.get_type_hints(mongodb_store)["return"] is MongoStore
    assert MongoStore.shared is True


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("mongodb://127.0.0.1:1", "mcp_tornado"),
        ("mongodb://127.0.0.1:1/", "mcp_tornado"),
        ("mongodb://127.0.0.1:1/?w=1", "mcp_tornado"),
        ("mongodb://u:p@one:1,two:2/mine?replicaSet=rs0", "mine"),
        ("mongodb+srv://u:p@cluster.example.com/mine", "mine"),
    ],
)
def test_the_path_names_the_database(url, database):
    assert Deployment.of(url, "pymongo").database == database


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
@pytest.mark.parametrize(
    ("query", "concern"),
    [
        ("", WriteConcern(w="majority", j=True)),
        ("?w=1", WriteConcern(w=1, j=True)),
        ("?journal=false", WriteConcern(w="majority", j=False)),
        ("?W=2&Journal=false&wtimeoutMS=5", WriteConcern(w=2, j=False, wtimeout=5)),
    ],
)
def test_writes_are_durable_unless_the_url_says_otherwise(driver, query, concern):
    client = Deployment.of(f"mongodb://127.0.0.1:1/{query}", driver).connect()
    assert client.write_concern == concern


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
def test_times_and_pool_are_those_of_the_url_and_short_where_it_is_silent(driver):
    silent = Deployment.of("mongodb://127.0.0.1:1/", driver)
    options = silent.connect().options
    assert silent.limit <= 4
    assert options.server_selection_timeout == 3
    assert (options.pool_options.connect_timeout, options.pool_options.socket_timeout) == (2, 4)
    query = "?serverSelectionTimeoutMS=100&connectTimeoutMS=200&socketTimeoutMS=300&timeoutMS=400&maxPoolSize=7"
    told = Deployment.of(f"mongodb://127.0.0.1:1/{query}", driver)
    options = told.connect().options
    assert told.limit == 0.4
    assert options.server_selection_timeout == 0.1
    assert (options.pool_options.connect_timeout, options.pool_options.socket_timeout) == (0.2, 0.3)
    assert options.pool_options.max_pool_size == 7


@pytest.mark.parametrize(
    "url", ["mongodb://u:12#hunter2@host/db", "mongodb://u:hunter2@host", "mongodb+srv://u:hunter2@host/?w=1"]
)
def test_messages_name_the_host_and_not_the_password(url):
    assert Deployment.of(url, "pymongo").hosts == "host"


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb:///hunter2",
        "mongodb://u:hunter2@",
        "mongodb://u:hunter2@host:port",
        "mongodb://u:hunter2@host:99999",
        "mongodb://u:hunter2@x@host",
        "mongodb://u:12/hunter2@host",
        "mongodb://u:12/hunter2@host/db",
        "mongodb://u:12?hunter2@host/db",
        "mongodb://u:hunter2%zz@host",
        "mongodb://u:hunter2@host/a b",
        "mongodb://u:hunter2@host/?hunter2=1",
        "mongodb://u:hunter2@host/?tls=hunter2",
        "mongodb://u:hunter2@host/?w=0",
        "mongodb://u:hunter2@host/?w=0&journal=false",
        "mongodb://u:hunter2@host/?tlsCAFile=/hunter2",
        "mongodb+srv://u:hunter2@host:1/",
        "mongodb+srv://u:hunter2@one,two/",
        "postgres://u:hunter2@host/",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_a_word_of_it(url):
    message = refusal(url)
    assert "hunter2" not in message
    assert "host:" not in message.replace("host:port", "")


def test_a_write_that_nobody_acknowledges_is_refused_by_name():
    assert "w=0" in refusal("mongodb://127.0.0.1:1/?w=0&journal=false")


def test_the_password_is_in_no_representation(clock):
    assert "hunter2" not in repr(Deployment.of(NOWHERE, "pymongo"))
    assert "hunter2" not in repr(made())


def test_options_that_there_are_not_are_refused_by_name():
    message = refusal(size="hunter2")
    assert "size" in message
    assert "driver" in message
    assert "hunter2" not in message
    assert "max_evnts" in refusal(events={"max_evnts": 1})


def test_a_driver_that_there_is_not_is_refused_with_those_there_are():
    message = refusal(driver="hunter2")
    assert "pymongo, motor" in message
    assert "hunter2" not in message


def test_motor_that_is_not_installed_is_refused_with_what_to_install(monkeypatch, clock):
    for name in ("motor", "motor.motor_asyncio"):
        monkeypatch.setitem(sys.modules, name, None)
    assert 'pip install "mcp-tornado-mongodb[motor]"' in refusal(driver="motor")
    with pytest.raises(StorePluginError, match="motor"):
        open_store(NOWHERE, {"driver": "motor"}, clock)
    assert isinstance(made(), MongoStore)


def test_the_bounds_of_events_reach_the_store():
    bounds = {"max_per_session": 5, "max_bytes": 6, "ttl_seconds": 7.0}
    assert made(events=bounds)._bounds == EventBounds(**bounds)
    assert made()._bounds == EventBounds()
