"""The errors that clients receive come from one table."""

from __future__ import annotations

import json

import pytest

from mcp_tornado.sessions import ERRORS, ErrorCode, SessionError

STATUS = {
    "SESSION_REQUIRED": 400,
    "SESSION_ID_MALFORMED": 400,
    "SESSION_NOT_FOUND": 404,
    "SESSION_EXPIRED": 404,
    "SESSION_LIMIT_REACHED": 503,
    "SESSION_CREATION_FAILED": 500,
    "SESSION_CONFLICT": 409,
    "STORE_UNAVAILABLE": 503,
    "REQUEST_NOT_FOUND": 404,
    "PARSE_ERROR": 400,
    "INVALID_REQUEST": 400,
    "UNSUPPORTED_PROTOCOL_VERSION": 400,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "NOT_ACCEPTABLE": 406,
    "METHOD_NOT_ALLOWED": 405,
    "ROUTE_NOT_FOUND": 404,
    "PAYLOAD_TOO_LARGE": 413,
    "FORBIDDEN_ORIGIN": 403,
    "MISDIRECTED_HOST": 421,
    "SERVER_DRAINING": 503,
    "UNAUTHORIZED": 401,
    "INTERNAL_ERROR": 500,
}


def test_the_table_holds_exactly_the_codes_and_statuses_of_the_contract():
    assert {code.value: spec.status for code, spec in ERRORS.items()} == STATUS


def test_every_code_has_a_row():
    assert set(ERRORS) == set(ErrorCode)


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        ERRORS[ErrorCode.INTERNAL_ERROR] = ERRORS[ErrorCode.PARSE_ERROR]


def test_the_rpc_codes_are_those_of_json_rpc():
    assert ERRORS[ErrorCode.PARSE_ERROR].rpc_code == -32700
    assert ERRORS[ErrorCode.SESSION_NOT_FOUND].rpc_code == -32600
    assert ERRORS[ErrorCode.INTERNAL_ERROR].rpc_code == -32603
    assert {spec.rpc_code for spec in ERRORS.values()} <= {-32700, -32600, -32603}


@pytest.mark.parametrize("code", ["SESSION_LIMIT_REACHED", "STORE_UNAVAILABLE"])
def test_a_client_receives_the_time_of_a_retry(code):
    assert SessionError(ErrorCode(code)).retry_after >= 1


def test_an_error_has_the_shape_of_the_contract():
    assert SessionError(ErrorCode.SESSION_NOT_FOUND).to_error() == {
        "code": -32600,
        "message": "Session not found",
        "data": {"code": "SESSION_NOT_FOUND"},
    }


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_row_makes_an_error_of_that_shape(code):
    error = SessionError(code)
    body = json.loads(json.dumps(error.to_error()))
    assert set(body) == {"code", "message", "data"}
    assert body["code"] == ERRORS[code].rpc_code
    assert body["message"] == str(error) == ERRORS[code].message
    assert body["data"] == {"code": code.value}
    assert error.status == ERRORS[code].status


def test_message_status_and_data_can_be_overridden():
    error = SessionError(ErrorCode.SESSION_LIMIT_REACHED, "You have too many", status=429, data={"limit": 3})
    assert error.status == 429
    assert error.to_error() == {
        "code": -32600,
        "message": "You have too many",
        "data": {"code": "SESSION_LIMIT_REACHED", "limit": 3},
    }


def test_the_reason_is_not_sent_to_the_client():
    error = SessionError(ErrorCode.SESSION_NOT_FOUND, reason="other_principal")
    assert error.reason == "other_principal"
    assert "other_principal" not in json.dumps(error.to_error())
    assert error.to_error() == SessionError(ErrorCode.SESSION_NOT_FOUND, reason="unknown").to_error()


def test_the_cause_of_an_error_is_not_sent_to_the_client():
    error = SessionError(ErrorCode.STORE_UNAVAILABLE)
    error.__cause__ = OSError("password=hunter2 at 10.0.0.1")
    assert "hunter2" not in json.dumps(error.to_error())
    assert "hunter2" not in str(error)
