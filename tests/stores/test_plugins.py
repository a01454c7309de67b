"""Stores are found by the scheme of their URL, and error messages never hold the URL."""

from __future__ import annotations

import functools
import sys
import types
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from mcp_tornado.sessions import EventBounds, SessionStore, system_clock
from mcp_tornado.stores import plugins
from mcp_tornado.stores.memory import MemoryStore, memory_store
from mcp_tornado.stores.plugins import GROUP, InstalledStore, StorePluginError, installed_stores, open_store


class Distribution:
    def __init__(self, name, version):
        self.name, self.version = name, version


@pytest.fixture
def installed(monkeypatch):
    """Replace the installed plugins by the given ones: triples of scheme, object and distribution."""
    module = types.ModuleType("a_plugin_module")
    monkeypatch.setitem(sys.modules, "a_plugin_module", module)

    def install(*found):
        points = []
        for number, (scheme, target, distribution) in enumerate(found):
            if not isinstance(target, str):
                setattr(module, f"factory_{number}", target)
                target = f"a_plugin_module:factory_{number}"
            point = EntryPoint(scheme, target, GROUP)
            vars(point).update(dist=distribution)
            points.append(point)
        monkeypatch.setattr(plugins, "entry_points", lambda **wanted: EntryPoints(points).select(**wanted))

    return install


def refusal(url, options=None):
    with pytest.raises(StorePluginError) as caught:
        open_store(url, options or {}, system_clock)
    return caught.value


def test_the_memory_store_is_found_by_its_entry_point():
    assert isinstance(open_store("memory://", {}, system_clock), MemoryStore)


def test_a_factory_receives_the_url_the_options_and_the_clock(installed):
    installed(("mine", lambda *given: given, Distribution("mine", "1")))
    options = {"a": 1, "events": {"max_bytes": 5}}
    assert open_store("mine://user:password@host/x?y=z#f", options, system_clock) == (
        "mine://user:password@host/x?y=z#f",
        options,
        system_clock,
    )


def test_only_the_plugin_of_the_scheme_is_imported(installed):
    installed(("mine", lambda *_: "a store", None), ("other", "no_such_module_at_all:factory", None))
    assert open_store("mine://", {}, system_clock) == "a store"


def test_the_error_for_an_unknown_scheme_names_the_installed_stores_and_distributions(installed):
    installed(
        ("redis", lambda *_: None, Distribution("mcp-tornado-redis", "1.2")),
        ("memory", lambda *_: None, Distribution("mcp-tornado", "0.1")),
    )
    message = str(refusal("mongodb://localhost"))
    assert "mongodb://" in message
    assert "redis (mcp-tornado-redis 1.2)" in message
    assert "memory (mcp-tornado 0.1)" in message


def test_the_error_for_an_unknown_scheme_says_that_no_store_is_installed(installed):
    installed()
    assert "none" in str(refusal("mongodb://localhost"))


def test_the_error_for_an_ambiguous_scheme_names_both_plugins(installed):
    installed(
        ("redis", lambda *_: None, Distribution("mcp-tornado-redis", "1.2")),
        ("redis", lambda *_: None, Distribution("somebody-elses-redis", "3")),
        ("memory", lambda *_: None, Distribution("mcp-tornado", "0.1")),
    )
    message = str(refusal("redis://localhost"))
    assert "mcp-tornado-redis 1.2" in message
    assert "somebody-elses-redis 3" in message
    assert "memory" not in message


def test_the_error_for_a_plugin_that_cannot_be_imported_names_it_and_has_the_cause(installed):
    installed(("broken", "no_such_module_at_all:factory", Distribution("broken-store", "9")))
    error = refusal("broken://localhost")
    assert "broken://" in str(error)
    assert "broken-store 9" in str(error)
    assert "no_such_module_at_all" in str(error)
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_the_error_for_a_plugin_without_its_factory_names_it_and_has_the_cause(installed):
    installed(("broken", "a_plugin_module:no_such_factory", Distribution("broken-store", "9")))
    error = refusal("broken://localhost")
    assert "broken-store 9" in str(error)
    assert isinstance(error.__cause__, AttributeError)


def test_the_error_for_a_plugin_that_refuses_its_url_has_the_reason_and_the_cause(installed):
    def refuse(*_):
        raise ValueError("the port must be a number")

    installed(("mine", refuse, Distribution("mine", "1")))
    error = refusal("mine://host:port")
    assert "mine://" in str(error)
    assert "the port must be a number" in str(error)
    assert isinstance(error.__cause__, ValueError)


def _quoting(url, *_):
    raise ValueError(f"not a good URL: {url}")


@pytest.mark.parametrize(
    "url",
    [
        "unknown://user:hunter2@host",
        "broken://user:hunter2@host",
        "twice://user:hunter2@host",
        "quoting://user:hunter2@host",
        "memory://user:hunter2@host",
        "memory:user:hunter2@host",
        "mongodb:user:hunter2@host",
        "mongodb//user:hunter2@host",
        "user:hunter2@host",
        "user:hunter2@host?next=redis://",
    ],
)
def test_a_password_in_a_url_is_not_in_the_message(installed, url):
    installed(
        ("broken", "no_such_module_at_all:factory", Distribution("broken", "1")),
        ("twice", lambda *_: None, Distribution("one", "1")),
        ("twice", lambda *_: None, Distribution("two", "1")),
        ("quoting", _quoting, Distribution("quoting", "1")),
        ("memory", memory_store, Distribution("mcp-tornado", "0.1")),
    )
    assert "hunter2" not in str(refusal(url))


@pytest.mark.parametrize("url", ["memory://something", "memory:///path", "memory://?a=b", "memory://#x"])
def test_a_memory_url_that_holds_more_than_the_scheme_is_refused(url):
    assert "memory://" in str(refusal(url))


def test_the_error_for_unknown_options_holds_their_names_and_not_their_values():
    message = str(refusal("memory://", {"size": "hunter2", "path": "x", "events": {}}))
    assert "path, size" in message
    assert "hunter2" not in message


def test_the_error_for_an_unknown_bound_of_events_names_it():
    assert "max_evnts" in str(refusal("memory://", {"events": {"max_evnts": 5}}))


def test_the_bounds_of_events_reach_the_memory_store():
    bounds = {"max_per_session": 5, "max_bytes": 6, "ttl_seconds": 7.0}
    assert open_store("memory://", {"events": bounds}, system_clock)._events._bounds == EventBounds(**bounds)
    assert open_store("memory://", {}, system_clock)._events._bounds == EventBounds(1000, 1_048_576, 3600)


# The list of installed stores


class WithEvents(MemoryStore):
    pass


class WithoutEvents(SessionStore):
    pass


def _with_events(url, options, clock) -> WithEvents: ...
def _without_events(url, options, clock) -> WithoutEvents: ...
def _some_store(url, options, clock) -> SessionStore: ...
def _union_of_stores(url, options, clock) -> WithEvents | WithoutEvents: ...
def _unknown_class(url, options, clock) -> NoSuchClass: ...  # noqa: F821  (the test is about an unknown class)
def _unannotated(url, options, clock): ...


def test_installed_stores_are_listed_by_scheme_with_their_distribution(installed):
    installed(
        ("redis", _with_events, Distribution("mcp-tornado-redis", "1.2")),
        ("memory", memory_store, Distribution("mcp-tornado", "0.1")),
        ("files", _without_events, None),
    )
    assert installed_stores() == [
        InstalledStore("files", None, None, events=False),
        InstalledStore("memory", "mcp-tornado", "0.1", events=True),
        InstalledStore("redis", "mcp-tornado-redis", "1.2", events=True),
    ]


@pytest.mark.parametrize(
    ("factory", "events"),
    [
        (_with_events, True),
        (WithEvents, True),
        (_without_events, False),
        (WithoutEvents, False),
        (_some_store, None),
        (_union_of_stores, None),
        (_unknown_class, None),
        (_unannotated, None),
        (functools.partial(_with_events), None),
    ],
)
def test_the_annotation_of_a_factory_tells_whether_its_store_keeps_events(installed, factory, events):
    installed(("mine", factory, Distribution("mine", "1")))
    assert installed_stores() == [InstalledStore("mine", "mine", "1", events)]


def test_no_store_is_created_to_find_out_whether_it_keeps_events(installed):
    def fails(url, options, clock) -> WithEvents:
        raise AssertionError("was called")

    installed(("mine", fails, Distribution("mine", "1")))
    assert [(store.events, store.problem) for store in installed_stores()] == [(True, None)]


def test_a_plugin_is_imported_only_when_its_store_is_opened_or_all_are_listed(installed, tmp_path, monkeypatch):
    (tmp_path / "a_lazy_plugin.py").write_text("def factory(url, options, clock): return url\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_lazy_plugin", raising=False)
    for use in (lambda: open_store("lazy://", {}, system_clock), installed_stores):
        installed(("lazy", "a_lazy_plugin:factory", None), ("other", lambda *_: "another store", None))
        assert open_store("other://", {}, system_clock) == "another store"
        refusal("unknown://")
        assert "a_lazy_plugin" not in sys.modules
        use()
        monkeypatch.delitem(sys.modules, "a_lazy_plugin")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise RuntimeError('needs a licence')", "RuntimeError: needs a licence"),
        ("def (:", "SyntaxError"),
        ("", "AttributeError"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_problem_and_does_not_affect_others(
    installed, tmp_path, monkeypatch, code, text
):
    (tmp_path / "a_broken_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_broken_plugin", raising=False)
    installed(
        ("mine", _with_events, Distribution("mine", "1")),
        ("broken", "a_broken_plugin:factory", Distribution("broken-store", "9")),
    )
    broken, mine = installed_stores()
    assert (broken.scheme, broken.distribution, broken.version, broken.events) == ("broken", "broken-store", "9", None)
    assert text in broken.problem
    assert mine == InstalledStore("mine", "mine", "1", events=True)
    assert open_store("mine://", {}, system_clock) is None


def test_two_plugins_for_one_scheme_are_both_listed_with_the_problem(installed):
    installed(
        ("twice", _with_events, Distribution("two", "2")),
        ("once", _with_events, Distribution("once", "1")),
        ("twice", _without_events, Distribution("one", "1")),
    )
    once, *twice = installed_stores()
    assert once == InstalledStore("once", "once", "1", events=True)
    assert [(store.distribution, store.version, store.events) for store in twice] == [
        ("one", "1", False),
        ("two", "2", True),
    ]
    assert all("more than one" in store.problem for store in twice)


def test_nothing_is_listed_if_nothing_is_installed(installed):
    installed()
    assert installed_stores() == []
