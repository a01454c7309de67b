"""The metrics have the names that dashboards rely on, and a client cannot create label values without bound."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mcp_tornado.metrics import CONTENT_TYPE, Metrics

CONTRACT = {
    "mcp_tornado_sessions_active": set(),
    "mcp_tornado_sessions_created_total": set(),
    "mcp_tornado_sessions_closed_total": {"reason"},
    "mcp_tornado_session_validations_total": {"outcome"},
    "mcp_tornado_streams_active": {"kind"},
    "mcp_tornado_http_requests_total": {"handler", "method", "code"},
    "mcp_tornado_http_request_duration_seconds": {"handler", "method"},
    "mcp_tornado_tool_calls_total": {"tool", "outcome"},
    "mcp_tornado_store_operation_duration_seconds": {"operation"},
    "mcp_tornado_store_errors_total": {"operation"},
    "mcp_tornado_cleanup_last_success_timestamp_seconds": set(),
    "mcp_tornado_build_info": {"version"},
}


@pytest.fixture
def metrics():
    return Metrics("1.2.3")


def calls_by_tool(metrics):
    """Return the count of calls for each value of the label `tool`, summed over the outcomes."""
    counts = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == "mcp_tornado_tool_calls_total":
                counts[sample.labels["tool"]] = counts.get(sample.labels["tool"], 0) + sample.value
    return counts


def test_the_names_are_exactly_those_of_the_contract(metrics):
    names = set(re.findall(r"^# TYPE (\S+)", metrics.render().decode(), re.MULTILINE))
    assert {name for name in names if not name.endswith("_created")} == set(CONTRACT)


def test_the_labels_are_exactly_those_of_the_contract(metrics):
    metrics.sessions_created.inc()
    metrics.sessions_closed.labels("expired").inc()
    metrics.session_validations.labels("ok").inc()
    metrics.streams_active.labels("get").inc()
    metrics.count_request("MCPHandler", "POST", 200, 0.25)
    metrics.count_tool_call("add", "ok")
    metrics.store_duration.labels("get").observe(0.1)
    metrics.store_errors.labels("get").inc()
    labels = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            name = re.sub(r"_(bucket|sum|count)$", "", sample.name)
            if not name.endswith("_created"):
                labels.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert labels == CONTRACT


def test_a_stream_is_counted_as_a_request_without_a_duration(metrics):
    metrics.count_request("MCPHandler", "GET", 200, None)
    metrics.count_request("MCPHandler", "GET", 200, 0.25)
    metrics.count_request("MCPHandler", "GET", 404, 0.25)
    read = metrics.registry.get_sample_value
    labels = {"handler": "MCPHandler", "method": "GET"}
    assert read("mcp_tornado_http_requests_total", {**labels, "code": "200"}) == 2
    assert read("mcp_tornado_http_requests_total", {**labels, "code": "404"}) == 1
    assert read("mcp_tornado_http_request_duration_seconds_count", labels) == 2
    assert read("mcp_tornado_http_request_duration_seconds_sum", labels) == 0.5


def test_the_running_version_is_rendered(metrics):
    assert 'mcp_tornado_build_info{version="1.2.3"} 1.0' in metrics.render().decode()


def test_two_applications_in_one_process_do_not_share_their_metrics(metrics):
    other = Metrics("1.2.3")
    metrics.sessions_created.inc()
    metrics.count_tool_call("add", "ok")
    assert "mcp_tornado_sessions_created_total 0.0" in other.render().decode()
    assert calls_by_tool(other) == {}


def test_metrics_are_rendered_as_prometheus_text(metrics):
    assert CONTENT_TYPE.startswith("text/plain")
    assert list(text_string_to_metric_families(metrics.render().decode()))


def test_a_tool_is_counted_by_its_name_after_a_call_succeeded(metrics):
    metrics.count_tool_call("add", "ok")
    metrics.count_tool_call("add", "error")
    assert metrics.registry.get_sample_value("mcp_tornado_tool_calls_total", {"tool": "add", "outcome": "ok"}) == 1
    assert metrics.registry.get_sample_value("mcp_tornado_tool_calls_total", {"tool": "add", "outcome": "error"}) == 1


def test_names_without_a_successful_call_are_counted_together(metrics):
    for number in range(10_000):
        metrics.count_tool_call(f"made up {number}", "error")
    assert calls_by_tool(metrics) == {"other": 10_000}


@pytest.mark.parametrize("name", [None, 5, ["a"], {"a": 1}, True, 1.5])
@pytest.mark.parametrize("outcome", ["ok", "error"])
def test_a_name_that_is_not_a_string_is_counted_as_other(metrics, name, outcome):
    metrics.count_tool_call(name, outcome)
    assert calls_by_tool(metrics) == {"other": 1}


def test_at_most_two_hundred_tools_are_counted_by_name(metrics):
    for _ in range(2):
        for number in range(300):
            metrics.count_tool_call(f"tool-{number}", "ok")
    counts = calls_by_tool(metrics)
    assert len(counts) == 201
    assert counts.pop("other") == 200
    assert counts == {f"tool-{number}": 2 for number in range(200)}


def test_a_name_with_special_characters_survives_rendering_and_parsing(metrics):
    name = 'a "b"\nc\\d{e="f"} ä \U0001f600'
    metrics.count_tool_call(name, "ok")
    assert calls_by_tool(metrics) == {name: 1}
