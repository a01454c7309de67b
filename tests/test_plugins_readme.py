"""What plugins/README.md shows is what stands in the example, or it is run; its commands run in test_third_party.py."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
import tomllib
import types
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from mcp_tornado import stores
from mcp_tornado.sessions import ClientInfo, Session, StoreUnavailable, system_clock
from mcp_tornado.settings import load_settings
from mcp_tornado.stores import EventLog, SessionStore, plugins
from mcp_tornado.stores.plugins import GROUP, installed_stores
from mcp_tornado.testing import FakeClock

PLUGINS = Path(__file__).parents[1] / "plugins"
README = (PLUGINS / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

BEGINNINGS = [
    ("toml", "[build-system]"),
    ("python", "# my_store.py"),
    ("python", "    def __init__"),
    ("python", "record = "),
    ("python", "class Waiting"),
    ("python", '"""The example keeps'),
    ("python", "@pytest.fixture\ndef outage"),
    ("sh", "pip install pytest"),
    ("sh", "pip wheel"),
    ("text", "SCHEME"),
    ("sh", "mcp-tornado serve"),
    ("toml", "[default.sessions]"),
]
"""How the blocks begin; each is looked at by a test, here or in test_third_party.py."""


def block(beginning):
    """Return the one code block that begins with a text."""
    found = [text for _, text in BLOCKS if text.startswith(beginning)]
    assert len(found) == 1, f"{len(found)} blocks begin with {beginning!r}"
    return found[0]


def section(heading):
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def run(code, **names):
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    return names


def test_every_block_is_one_that_a_test_looks_at():
    for (language, text), (told, beginning) in zip(BLOCKS, BEGINNINGS, strict=True):
        assert language == told
        assert text.startswith(beginning)


@pytest.mark.parametrize(
    ("beginning", "file"),
    [
        ("    def __init__", "jsonfile_store.py"),
        ('"""The example keeps', "tests/test_contract.py"),
    ],
)
def test_what_is_shown_of_the_example_stands_in_it(beginning, file):
    assert block(beginning) in (PLUGINS / "example" / file).read_text()


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (PLUGINS / link).exists()] == []


def test_the_table_names_the_stores_that_there_are():
    table = README.partition("| store | scheme |")[2].partition("\n\n")[0]
    told = {
        (scheme, distribution)
        for schemes, distribution in re.findall(r"^\| \[.*?\]\(.*?\) \| (.*?) \| `(.*?)`.* \|$", table, re.MULTILINE)
        for scheme in re.findall(r"`([^`]+)`", schemes)
    }
    assert told == {(store.scheme, store.distribution) for store in installed_stores()}


@pytest.mark.parametrize("contract", [SessionStore, EventLog])
def test_the_tables_name_every_operation_with_its_parameters(contract):
    table = section("What a store is").partition(f"| `{contract.__name__}` |")[2].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)(\(.*?\))` \|", table, re.MULTILINE))
    real = {}
    for name in contract.__abstractmethods__ - {"__aenter__", "__aexit__"}:
        _, *parameters = inspect.signature(getattr(contract, name)).parameters.values()
        bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
        real[name] = str(inspect.Signature(bare))
    assert told == real


def test_what_helps_is_there_and_nothing_is_left_out():
    table = section("What helps").partition("\n\n| name |")[2].partition("\n\n")[0]
    told = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:])))
    functions = {name for name in stores.__all__ if inspect.isfunction(getattr(stores, name))}
    assert told == functions | {"EventId", "Leases", "Record", "StoredLog", "Waiters"}
    words = set(re.findall(r"\w+", README))
    assert set(stores.__all__) - words == {"ClientInfo", "StoreError"}


# The skeleton


@pytest.fixture
def install(monkeypatch):
    """Install the text of a module as a plugin, the only one there is, and return the module."""

    def installed(text):
        module = types.ModuleType("my_store")
        exec(compile(text, "README.md", "exec", dont_inherit=True), vars(module))
        named = tomllib.loads(block("[build-system]"))["project"]["entry-points"][GROUP]
        points = EntryPoints([EntryPoint(scheme, value, GROUP) for scheme, value in named.items()])
        monkeypatch.setitem(sys.modules, "my_store", module)
        monkeypatch.setattr(plugins, "entry_points", lambda **wanted: points.select(**wanted))
        return module

    return installed


@pytest.fixture
def skeleton(install):
    return install(block("# my_store.py"))


def test_the_skeleton_has_every_operation_as_the_contract_has_it(skeleton):
    store = skeleton.MyStore
    assert not inspect.isabstract(store)
    for name in SessionStore.__abstractmethods__:
        assert inspect.signature(getattr(store, name)) == inspect.signature(getattr(SessionStore, name)), name


def test_the_skeleton_is_made_from_a_url_and_options_without_being_entered(skeleton, tmp_path):
    (tmp_path / "settings.toml").write_text(block("[default.sessions]"))
    sessions = load_settings(directory=tmp_path).settings.sessions
    store = plugins.open_store(sessions.store, sessions.store_options, system_clock)
    assert (store._host, store._table) == ("database.example.com", "mcp_sessions")
    for url, options in [("mine://", {}), ("mine://host", {"size": 1}), ("mine://host", {"events": {"max": 1}})]:
        with pytest.raises(plugins.StorePluginError):
            plugins.open_store(url, options, system_clock)


def test_the_skeleton_is_listed_without_events_until_it_says_that_it_keeps_some(install):
    text = block("# my_store.py")
    install(text)
    assert [(store.scheme, store.events, store.problem) for store in installed_stores()] == [("mine", False, None)]
    told = "class MyStore(SessionStore, EventLog)"
    assert f"with `{told}` the five\noperations of `EventLog` are added" in README
    assert len(EventLog.__abstractmethods__) == 5
    install(text.replace("class MyStore(SessionStore)", told).replace("EventBounds,", "EventBounds, EventLog,"))
    assert [(store.scheme, store.events, store.problem) for store in installed_stores()] == [("mine", True, None)]


# What helps


def test_a_record_does_what_is_shown():
    clock = FakeClock()
    session = Session(
        key="key",
        created_at=clock(),
        last_seen_at=clock(),
        expires_at=clock() + timedelta(seconds=10),
        client=ClientInfo(),
        protocol_version="",
    )
    seen, expires = clock() + timedelta(seconds=1), clock() + timedelta(seconds=20)
    names = vars(stores) | {"session": session, "clock": clock, "seen": seen, "expires": expires}
    assert run(block("record = "), **names)["is_live"] is True


@pytest.mark.anyio
async def test_waiters_do_what_is_shown():
    class Log(run(block("class Waiting"), **vars(stores))["Waiting"]):
        events, live, closed = (), True, False

        async def read(self, key, after, *, limit):
            return self.events

        async def _is_live(self, key):
            return self.live

        def _check_open(self):
            if self.closed:
                raise StoreUnavailable("closed")

    log = Log()
    assert await log.wait("key", None, 0) is False
    log.events = ("event",)
    assert await log.wait("key", None, 1000) is True
    log.events, log.live = (), False
    assert await log.wait("key", None, 1000) is True
    log.live = True
    waiting = asyncio.ensure_future(log.wait("key", None, 1000))
    await asyncio.sleep(0)
    log._waiters.wake("key")
    assert await waiting is True
    waiting = asyncio.ensure_future(log.wait("key", None, 1000))
    await asyncio.sleep(0)
    log.closed = True
    log._waiters.wake_all()
    with pytest.raises(StoreUnavailable):
        await waiting


@pytest.mark.anyio
async def test_the_outage_lasts_while_it_is_entered():
    class Server:
        running = True

        def start(self):
            self.running = True

        def stop(self):
            self.running = False

    server = Server()
    code = block("@pytest.fixture\ndef outage").removeprefix("@pytest.fixture\n")
    outage = run(code, asynccontextmanager=asynccontextmanager)["outage"](server)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  (it comes from the body, as a failing test's does)
        async with outage:
            assert not server.running
            raise ZeroDivisionError
    assert server.running


def test_the_project_is_found_under_its_scheme():
    project = tomllib.loads((PLUGINS / "example" / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][GROUP] == {"jsonfile": "jsonfile_store:JsonFileStore"}
    assert [re.split("[<>=]", name)[0] for name in project["dependencies"]] == ["filelock", "mcp-tornado"]
