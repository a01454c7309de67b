"""URLs and options that the factory accepts and refuses; no server is needed."""

from __future__ import annotations

import sys
import typing

import pytest
from mcp_tornado_mongodb import MongoStore, mongodb_store
from mcp_tornado_mongodb.deployment import Deployment
from pymongo.write_concern import WriteConcern

from mcp_tornado.stores import EventBounds
from mcp_tornado.stores.plugins import StorePluginError, open_store

URL = "mongodb://u%40:hunter2@127.0.0.1:1/mine"


def make_store(url=URL, **options):
    return mongodb_store(url, options, None)


def make_refused_store(url=URL, **options):
    """Return the message of the error that the factory raises."""
    with pytest.raises(ValueError) as caught:
        make_store(url, **options)
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
def test_both_schemes_name_the_store(scheme, clock):
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
    assert Deployment.parse(url, "pymongo").database == database


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
def test_writes_are_durable_unless_the_url_sets_another_concern(driver, query, concern):
    client = Deployment.parse(f"mongodb://127.0.0.1:1/{query}", driver).connect()
    assert client.write_concern == concern


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
def test_timeouts_are_short_by_default_and_can_be_set_in_the_url(driver):
    default = Deployment.parse("mongodb://127.0.0.1:1/", driver)
    options = default.connect().options
    assert default.timeout <= 4
    assert options.server_selection_timeout == 3
    assert (options.pool_options.connect_timeout, options.pool_options.socket_timeout) == (2, 4)
    query = "?serverSelectionTimeoutMS=100&connectTimeoutMS=200&socketTimeoutMS=300&timeoutMS=400&maxPoolSize=7"
    explicit = Deployment.parse(f"mongodb://127.0.0.1:1/{query}", driver)
    options = explicit.connect().options
    assert explicit.timeout == 0.4
    assert options.server_selection_timeout == 0.1
    assert (options.pool_options.connect_timeout, options.pool_options.socket_timeout) == (0.2, 0.3)
    assert options.pool_options.max_pool_size == 7


@pytest.mark.parametrize(
    "url", ["mongodb://u:12#hunter2@host/db", "mongodb://u:hunter2@host", "mongodb+srv://u:hunter2@host/?w=1"]
)
def test_the_hosts_for_messages_do_not_contain_the_password(url):
    assert Deployment.parse(url, "pymongo").hosts == "host"


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
def test_a_url_that_cannot_be_used_is_refused_and_not_quoted(url):
    message = make_refused_store(url)
    assert "hunter2" not in message
    assert "host:" not in message.replace("host:port", "")


def test_unacknowledged_writes_are_refused_by_name():
    assert "w=0" in make_refused_store("mongodb://127.0.0.1:1/?w=0&journal=false")


def test_the_password_is_in_no_representation(clock):
    assert "hunter2" not in repr(Deployment.parse(URL, "pymongo"))
    assert "hunter2" not in repr(make_store())


def test_an_unknown_option_is_refused_by_name():
    message = make_refused_store(size="hunter2")
    assert "size" in message
    assert "driver" in message
    assert "hunter2" not in message
    assert "max_evnts" in make_refused_store(events={"max_evnts": 1})


def test_an_unknown_driver_is_refused_with_the_known_ones():
    message = make_refused_store(driver="hunter2")
    assert "pymongo, motor" in message
    assert "hunter2" not in message


def test_motor_is_refused_with_what_to_install_if_it_is_not_installed(monkeypatch, clock):
    for name in ("motor", "motor.motor_asyncio"):
        monkeypatch.setitem(sys.modules, name, None)
    assert 'pip install "mcp-tornado-mongodb[motor]"' in make_refused_store(driver="motor")
    with pytest.raises(StorePluginError, match="motor"):
        open_store(URL, {"driver": "motor"}, clock)
    assert isinstance(make_store(), MongoStore)


def test_the_bounds_of_events_reach_the_store():
    bounds = {"max_per_session": 5, "max_bytes": 6, "ttl_seconds": 7.0}
    assert make_store(events=bounds)._bounds == EventBounds(**bounds)
    assert make_store()._bounds == EventBounds()
