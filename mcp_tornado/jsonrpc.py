"""Decode, check and build JSON-RPC messages (JSON-RPC 2.0; MCP 2025-11-25, basic)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard, cast

import orjson

from mcp_tornado.sessions.encoding import MAX_INTEGER_DIGITS, decode_exactly, encode, shorten_numbers
from mcp_tornado.sessions.errors import ErrorCode, SessionError

RequestId = str | int
JSONObject = Mapping[str, Any]

REQUEST_CANCELLED: Final = -32800
"""Error code for a handshake-era call that was cancelled; the SDK's transport uses the same."""
MAX_DEPTH: Final = 200
"""Deepest nesting of a body. A body nested deeper than Python's recursion limit would fail later, in other code."""
_ID_IN_TEXT: Final = re.compile(rb'"id"\s*:\s*"([ -!#-\[\]-~]{1,200})"')
"""A member `id` whose value is a string without escapes."""
CALL_LOST: Final = -32000
"""Error code for a call whose result is lost because its session or its process has ended."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request: a message that must be answered."""

    id: RequestId
    method: str
    params: JSONObject | None


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification: a message that gets no answer."""

    method: str
    params: JSONObject | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The client's response to a request of the server; `id` is `None` if it names no request."""

    id: RequestId | None
    result: JSONObject | None
    error: JSONObject | None


Message = Request | Notification | Reply


def decode(body: bytes) -> Any:
    """Return the JSON value of a request body. Integers are exact, up to `MAX_INTEGER_DIGITS` digits.

    Raises:
        SessionError: `PARSE_ERROR`: the body is not UTF-8 or not JSON, is nested too deeply, or has a number that is
            out of range.
    """
    shortened = shorten_numbers(body)
    try:
        value = orjson.loads(body if shortened is None else shortened)
    except orjson.JSONDecodeError as error:
        raise SessionError(ErrorCode.PARSE_ERROR, f"The body is not valid JSON: {error.msg}") from error
    # Nearly every body has so few brackets that it cannot be too deep, and counting them is fast.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deeper_than(value, MAX_DEPTH):
        raise SessionError(ErrorCode.PARSE_ERROR, f"The body is nested more than {MAX_DEPTH} levels deep")
    if shortened is None:
        return value
    try:
        return decode_exactly(body)
    except ValueError as error:
        raise SessionError(ErrorCode.PARSE_ERROR, f"The body has a number that is out of range: {error}") from error


def _is_deeper_than(value: Any, limit: int) -> bool:
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if is_object(outer) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def parse(value: Any) -> Message:
    """Return a JSON value as a message.

    Raises:
        SessionError: `INVALID_REQUEST`: the value is no valid message; the error's text says why.
    """
    if not is_object(value):
        raise _invalid("a JSON-RPC message must be an object")
    if value.get("jsonrpc") != "2.0":
        raise _invalid('the member "jsonrpc" must be "2.0"')
    if "method" in value:
        return _parse_call(value)
    if "result" in value or "error" in value:
        return _parse_reply(value)
    raise _invalid('a message must have a "method", a "result" or an "error"')


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether a JSON value is an object."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Return whether a JSON value is an array."""
    return isinstance(value, list)


def is_request_id(value: Any) -> TypeGuard[RequestId]:
    """Return whether a JSON value is valid as a request id: a string or a whole number."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def _parse_call(value: dict[str, Any]) -> Request | Notification:
    method, params = value["method"], value.get("params")
    if not isinstance(method, str):
        raise _invalid('"method" must be a string')
    if params is not None and not is_object(params):
        raise _invalid('"params" must be an object')
    if "id" not in value:
        return Notification(method, params)
    request_id = value["id"]
    if not is_request_id(request_id):
        raise _invalid('"id" must be a string or a whole number')
    return Request(request_id, method, params)


def _parse_reply(value: dict[str, Any]) -> Reply:
    # Some clients always send both members: `null` in one of them means that it is absent.
    request_id, result, error = value.get("id"), value.get("result"), value.get("error")
    if result is not None and error is not None:
        raise _invalid('a response must have either a "result" or an "error"')
    if error is not None or "result" not in value:
        if not is_object(error) or not is_request_id(error.get("code")) or not isinstance(error.get("message"), str):
            raise _invalid('"error" must be an object with a "code" and a "message"')
        if isinstance(error["code"], str):
            raise _invalid('the "code" of an "error" must be a whole number')
    elif not is_object(result):
        raise _invalid('"result" must be an object')
    if request_id is not None and not is_request_id(request_id):
        raise _invalid('"id" must be a string or a whole number')
    return Reply(request_id, result, cast(JSONObject | None, error))


def _invalid(why: str) -> SessionError:
    return SessionError(ErrorCode.INVALID_REQUEST, f"Not a valid JSON-RPC message: {why}")


def reply_ids(body: bytes) -> set[str]:
    """Return the string ids of the replies that a body may contain, also if it is no valid message or not even JSON.

    Args:
        body: The body of a refused request.
    """
    try:
        value = decode(body)
    except SessionError:
        return {found.decode() for found in _ID_IN_TEXT.findall(body)}
    values = value if is_list(value) else [value]
    found = (each.get("id") for each in values if is_object(each) and "method" not in each)
    return {request_id for request_id in found if isinstance(request_id, str)}


def correlation_key(request_id: RequestId) -> RequestId:
    """Return the value by which request ids are compared: `"7"` and `7` are the same id, as in the SDKs."""
    if isinstance(request_id, str) and request_id.isascii() and request_id.isdigit():
        return int(request_id) if len(request_id) <= MAX_INTEGER_DIGITS else request_id
    return request_id


def digest(request_id: RequestId) -> str:
    """Return a hash of a request id, of fixed length; ids with the same `correlation_key` have the same hash."""
    return hashlib.sha256(encode(correlation_key(request_id))).hexdigest()


def request(request_id: RequestId, method: str, params: JSONObject | None) -> dict[str, Any]:
    """Return a request as JSON; empty params are left out."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params:
        message["params"] = params
    return message


def notification(method: str, params: JSONObject | None) -> dict[str, Any]:
    """Return a notification as JSON; params of `None` are left out."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return message


def reply(value: Reply) -> dict[str, Any]:
    """Return a client's response as JSON, unchanged."""
    member = {"result": value.result} if value.error is None else {"error": value.error}
    return {"jsonrpc": "2.0", "id": value.id, **member}


def result(request_id: RequestId, value: JSONObject) -> dict[str, Any]:
    """Return a successful response as JSON."""
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


def error(request_id: RequestId | None, value: JSONObject) -> dict[str, Any]:
    """Return an error response as JSON; `value` is the error object."""
    return {"jsonrpc": "2.0", "id": request_id, "error": value}


def progress_token(params: JSONObject | None) -> RequestId | None:
    """Return the progress token of a request (MCP, basic/utilities/progress), or `None` if it asks for no progress."""
    meta = params.get("_meta") if params else None
    token = meta.get("progressToken") if is_object(meta) else None
    return token if is_request_id(token) else None


def progress_params(token: RequestId, progress: float, total: float | None, message: str | None) -> dict[str, Any]:
    """Return the params of a `notifications/progress` message."""
    params: dict[str, Any] = {"progressToken": token, "progress": progress}
    if total is not None:
        params["total"] = total
    if message is not None:
        params["message"] = message
    return params
