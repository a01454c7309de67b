"""The contract kit finds the faults of broken stores, each by a test whose name tells the fault."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

BROKEN = Path(__file__).with_name("broken_stores.py")

CAUGHT_BY = {
    "ResurrectsOnTouch": "test_a_touch_never_resurrects_an_expired_session",
    "TouchesBackwards": "test_a_touch_never_moves_a_time_backwards",
    "ResurrectsOnUpdate": "test_an_update_never_resurrects_an_expired_session",
    "LosesAConcurrentUpdate": "test_no_update_of_many_concurrent_writers_is_lost",
    "UpdatesSomeFieldsOnly": "test_an_update_changes_every_field_that_it_names_and_no_other",
    "BoundsEachStreamByItself": "test_the_bounds_are_for_all_streams_of_a_session_together",
    "KeepsEventsUntilTheFirstExpiry": "test_a_touched_session_takes_events_beyond_its_first_expiry",
    "ForgetsAField": "test_every_field_of_a_session_comes_back",
    "RoundsTimes": "test_times_come_back_to_the_microsecond",
    "OverwritesOnCreate": "test_creating_never_overwrites",
    "CountsExpiredSessions": "test_expired_sessions_are_not_counted_and_not_listed_before_they_are_swept",
    "ListsExpiredSessions": "test_expired_sessions_are_not_counted_and_not_listed_before_they_are_swept",
    "PagesTwiceOverASession": "test_paging_shows_every_session_that_stays_once_while_others_come_and_go",
    "SweepsALiveSession": "test_a_sweep_checks_each_session_again_before_it_removes_it",
    "SweepsTooMuch": "test_a_sweep_removes_no_more_than_the_limit",
    "KeepsTheEventsOfDeletedSessions": "test_deleting_a_session_takes_its_events_along",
    "RepeatsAnEventId": "test_event_ids_are_never_repeated_and_increase",
    "ShowsAnEventBeforeAnEarlierOne": (
        "test_event_ids_are_unique_and_followers_see_every_event_once_in_order_under_many_appenders"
    ),
    "NeverWakesAWaiter": "test_a_waiter_is_woken_by_an_append",
    "ForgetsThatAStreamHasEnded": "test_a_stream_ends_with_its_final_event_and_others_go_on",
    "EvictsTheNewestEvent": "test_the_newest_event_is_always_kept",
    "KeepsEventsForever": "test_a_session_keeps_events_up_to_their_age",
    "GivesALeaseTwice": "test_of_many_who_claim_a_lease_one_gets_it",
    "ClaimsToBeShared": "test_stores_on_the_same_data_see_the_same_sessions_if_the_store_says_so",
    "AnswersAfterClosing": "test_a_store_that_was_not_entered_or_is_closed_is_unavailable",
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> dict[str, set[str]]:
    """The names of the failed tests, by store. The correct store always has an entry."""
    report = tmp_path_factory.mktemp("broken") / "report.xml"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", str(BROKEN), "-q", "-p", "no:cacheprovider", f"--junitxml={report}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout
    by_store: dict[str, set[str]] = defaultdict(set)
    for case in ElementTree.parse(report).iter("testcase"):
        store = case.attrib["classname"].partition("Of")[2]
        names = by_store[store]
        if case.find("failure") is not None or case.find("error") is not None:
            names.add(case.attrib["name"].partition("[")[0])
    return by_store


def test_a_correct_store_passes(failed):
    assert failed["Correct"] == set()


def test_every_broken_store_was_tested(failed):
    assert failed.keys() == {"Correct", *CAUGHT_BY}


@pytest.mark.parametrize("store", CAUGHT_BY)
def test_a_broken_store_fails_the_test_whose_name_tells_the_fault(failed, store):
    assert CAUGHT_BY[store] in failed[store]
