"""plugins/README.md is true: its code is part of the example, or is run here. test_third_party.py runs its commands."""

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
"""The beginnings of all code blocks. A test uses each of them, here or in test_third_party.py."""


def block(beginning):
    """Return the only code block that begins with a text."""
    found = [text for _, text in BLOCKS if text.startswith(beginning)]
    assert len(found) == 1, f"{len(found)} blocks begin with {beginning!r}"
    return found[0]


def section(heading):
    """Return the text under a heading of level 2."""
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def run(code, **names):
    """Run code with these global names, and return the global names afterwards."""
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    return names


def test_document_has_exactly_the_blocks_that_tests_use():
    for (language, text), (expected, beginning) in zip(BLOCKS, BEGINNINGS, strict=True):
        assert language == expected
        assert text.startswith(beginning)


@pytest.mark.parametrize(
    ("beginning", "file"),
    [
        ("    def __init__", "jsonfile_store.py"),
        ('"""The example keeps', "tests/test_contract.py"),
    ],
)
def test_block_is_part_of_the_example(beginning, file):
    assert block(beginning) in (PLUGINS / "example" / file).read_text()


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (PLUGINS / link).exists()] == []


def test_store_table_names_every_installed_store():
    table = README.partition("| store | scheme |")[2].partition("\n\n")[0]
    documented = {
        (scheme, distribution)
        for schemes, distribution in re.findall(r"^\| \[.*?\]\(.*?\) \| (.*?) \| `(.*?)`.* \|$", table, re.MULTILINE)
        for scheme in re.findall(r"`([^`]+)`", schemes)
    }
    assert documented == {(store.scheme, store.distribution) for store in installed_stores()}


@pytest.mark.parametrize("contract", [SessionStore, EventLog])
def test_contract_tables_name_every_operation_with_its_parameters(contract):
    table = section("The contract").partition(f"| `{contract.__name__}` |")[2].partition("\n\n")[0]
    documented = dict(re.findall(r"^\| `(\w+)(\(.*?\))` \|", table, re.MULTILINE))
    real = {}
    for name in contract.__abstractmethods__ - {"__aenter__", "__aexit__"}:
        _, *parameters = inspect.signature(getattr(contract, name)).parameters.values()
        bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
        real[name] = str(inspect.Signature(bare))
    assert documented == real


def test_helper_table_names_every_helper():
    table = section("Helpers").partition("\n\n| name |")[2].partition("\n\n")[0]
    documented = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:])))
    functions = {name for name in stores.__all__ if inspect.isfunction(getattr(stores, name))}
    assert documented == functions | {"EventId", "Leases", "Record", "StoredLog", "Waiters"}
    words = set(re.findall(r"\w+", README))
    assert set(stores.__all__) - words == {"ClientInfo", "StoreError"}


# The skeleton


@pytest.fixture
def install(monkeypatch):
    """Return a function that installs the text of a module as the only plugin, and returns the module."""

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


def test_skeleton_has_the_signatures_of_the_contract(skeleton):
    store = skeleton.MyStore
    assert not inspect.isabstract(store)
    for name in SessionStore.__abstractmethods__:
        assert inspect.signature(getattr(store, name)) == inspect.signature(getattr(SessionStore, name)), name


def test_skeleton_is_created_from_a_url_and_options_without_being_entered(skeleton, tmp_path):
    (tmp_path / "settings.toml").write_text(block("[default.sessions]"))
    sessions = load_settings(directory=tmp_path).settings.sessions
    store = plugins.open_store(sessions.store, sessions.store_options, system_clock)
    assert (store._host, store._table) == ("database.example.com", "mcp_sessions")
    for url, options in [("mine://", {}), ("mine://host", {"size": 1}), ("mine://host", {"events": {"max": 1}})]:
        with pytest.raises(plugins.StorePluginError):
            plugins.open_store(url, options, system_clock)


def test_skeleton_is_listed_with_events_only_if_it_is_an_event_log(install):
    text = block("# my_store.py")
    install(text)
    assert [(store.scheme, store.events, store.problem) for store in installed_stores()] == [("mine", False, None)]
    with_events = "class MyStore(SessionStore, EventLog)"
    assert f"With `{with_events}` you add the five operations of `EventLog`" in " ".join(README.split())
    assert len(EventLog.__abstractmethods__) == 5
    install(text.replace("class MyStore(SessionStore)", with_events).replace("EventBounds,", "EventBounds, EventLog,"))
    assert [(store.scheme, store.events, store.problem) for store in installed_stores()] == [("mine", True, None)]


# The helpers


def test_record_example_runs():
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


async def started_wait(log):
    """Start `log.wait` in a task, and return the task when it waits."""
    log.checked.clear()
    waiting = asyncio.create_task(log.wait("key", None, 1000))
    try:
        async with asyncio.timeout(30):
            await log.checked.wait()
    except TimeoutError:
        pytest.fail("`wait` has not looked for new events within 30 seconds")
    return waiting


@pytest.mark.anyio
async def test_waiters_example_waits_and_is_woken():
    class Log(run(block("class Waiting"), **vars(stores))["Waiting"]):
        events, live, closed = (), True, False

        def __init__(self):
            super().__init__()
            self.checked = asyncio.Event()

        async def read(self, key, after, *, limit):
            return self.events

        async def _is_live(self, key):
            self.checked.set()  # a later `wake` reaches the waiter: it is registered before this check
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
    waiting = await started_wait(log)
    log._waiters.wake("key")
    assert await waiting is True
    waiting = await started_wait(log)
    log.closed = True
    log._waiters.wake_all()
    with pytest.raises(StoreUnavailable):
        await waiting


@pytest.mark.anyio
async def test_outage_example_lasts_while_it_is_entered():
    class Server:
        running = True

        def start(self):
            self.running = True

        def stop(self):
            self.running = False

    server = Server()
    code = block("@pytest.fixture\ndef outage").removeprefix("@pytest.fixture\n")
    outage = run(code, asynccontextmanager=asynccontextmanager)["outage"](server)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  (like a failing test, the body raises it)
        async with outage:
            assert not server.running
            raise ZeroDivisionError
    assert server.running


def test_example_project_declares_its_scheme():
    project = tomllib.loads((PLUGINS / "example" / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][GROUP] == {"jsonfile": "jsonfile_store:JsonFileStore"}
    assert [re.split("[<>=]", name)[0] for name in project["dependencies"]] == ["filelock", "mcp-tornado"]
