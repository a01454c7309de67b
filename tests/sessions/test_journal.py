"""The journal keeps the last request for the level and for each resource, within its bound."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_tornado.sessions.journal import JOURNAL_LIMIT, JOURNALED_METHODS, has_room, with_entry

LEVEL, SUBSCRIBE, UNSUBSCRIBE = "logging/setLevel", "resources/subscribe", "resources/unsubscribe"


def journal_of(*requests):
    journal = ()
    for method, params in requests:
        journal = with_entry(journal, method, params)
    return [(entry["method"], entry["params"]) for entry in journal]


def test_the_journaled_requests_are_those_for_the_level_and_the_subscriptions():
    assert {LEVEL, SUBSCRIBE, UNSUBSCRIBE} == JOURNALED_METHODS


def test_the_last_level_is_kept():
    assert journal_of((LEVEL, {"level": "info"}), (LEVEL, {"level": "error"})) == [(LEVEL, {"level": "error"})]


def test_each_subscribed_resource_is_kept_once_in_the_order_of_the_last_requests():
    assert journal_of((SUBSCRIBE, {"uri": "a"}), (SUBSCRIBE, {"uri": "b"}), (SUBSCRIBE, {"uri": "a"})) == [
        (SUBSCRIBE, {"uri": "b"}),
        (SUBSCRIBE, {"uri": "a"}),
    ]


def test_an_unsubscribed_resource_is_removed_and_the_others_are_kept():
    requests = [(LEVEL, {"level": "info"}), (SUBSCRIBE, {"uri": "a"}), (SUBSCRIBE, {"uri": "b"})]
    assert journal_of(*requests, (UNSUBSCRIBE, {"uri": "a"})) == [(LEVEL, {"level": "info"}), (SUBSCRIBE, {"uri": "b"})]


def test_a_resource_can_be_subscribed_again():
    requests = [(SUBSCRIBE, {"uri": "a"}), (UNSUBSCRIBE, {"uri": "a"}), (SUBSCRIBE, {"uri": "a"})]
    assert journal_of(*requests) == [(SUBSCRIBE, {"uri": "a"})]


def test_an_unsubscribe_without_a_subscription_adds_nothing():
    assert journal_of((UNSUBSCRIBE, {"uri": "a"})) == []


def test_a_resource_with_the_name_level_is_not_the_level():
    assert len(journal_of((LEVEL, {"level": "info"}), (SUBSCRIBE, {"uri": "level"}))) == 2


def test_the_given_journal_and_params_are_not_changed():
    params = {"uri": "a"}
    before = with_entry((), SUBSCRIBE, params)
    with_entry(before, UNSUBSCRIBE, params)
    params["uri"] = "changed"
    assert before == ({"method": SUBSCRIBE, "params": {"uri": "a"}},)


def test_a_full_journal_has_room_only_for_requests_that_replace_an_entry():
    full = tuple({"method": SUBSCRIBE, "params": {"uri": f"r:{n}"}} for n in range(JOURNAL_LIMIT))
    assert not has_room(full, SUBSCRIBE, {"uri": "one more"})
    assert not has_room(full, LEVEL, {"level": "info"})
    assert has_room(full, SUBSCRIBE, {"uri": "r:5"})
    assert has_room(full, UNSUBSCRIBE, {"uri": "r:5"})
    assert has_room(full[1:], SUBSCRIBE, {"uri": "one more"})


_requests = st.lists(
    st.one_of(
        st.tuples(st.just(LEVEL), st.fixed_dictionaries({"level": st.sampled_from(["info", "error"])})),
        st.tuples(
            st.sampled_from([SUBSCRIBE, UNSUBSCRIBE]), st.fixed_dictionaries({"uri": st.sampled_from(["a", "b"])})
        ),
    )
)


@settings(database=None, deadline=None)
@given(_requests)
def test_a_replay_of_the_journal_has_the_effect_of_all_requests(requests):
    def effect(requests):
        level, subscribed = None, set()
        for method, params in requests:
            if method == LEVEL:
                level = params["level"]
            elif method == SUBSCRIBE:
                subscribed.add(params["uri"])
            else:
                subscribed.discard(params["uri"])
        return level, subscribed

    journal = journal_of(*requests)
    assert effect(journal) == effect(requests)
    assert len(journal) <= 3
