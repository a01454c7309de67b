"""Failures of prompts, resources and completions that the client has caused: an unknown name, or wrong arguments.

The SDK and FastMCP raise the same exceptions for these as for faults of the server. What tells them apart is the place
where the exception was raised: no code of the server's author has run yet. Only the text of such a failure is shown to
the client.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import CodeType
from typing import Any, Final

from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts import Prompt
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, ErrorData
from pydantic import ValidationError

from mcp_tornado.hosting.handlers import Handler, wrapped_handler
from mcp_tornado.log import get_logger

_log = get_logger(__name__)

_METHODS: Final = ("prompts/get", "resources/read", "completion/complete")
_VALIDATED_CALL: Final = "pydantic._internal._validate_call"
"""Validates the arguments of a function, for the SDK's prompts and resources, and for FastMCP's resources."""
_FASTMCP_PROMPT: Final = "fastmcp.prompts.function_prompt"
"""Validates the arguments of FastMCP's prompts, with a type adapter."""
_FASTMCP_RESOURCE: Final = "fastmcp.resources.template"
"""Converts the arguments of FastMCP's resources to numbers and booleans."""
_FRAMEWORKS: Final = frozenset({"anyio", "asyncio", "concurrent", "fastmcp", "mcp", "pydantic", "threading"})
_SDK_LOGGERS: Final = ("mcp.server.mcpserver.server", "fastmcp.server.server")
"""The loggers of the SDK and of FastMCP for failures of prompts and resources."""
_MAX_LOGGED_CHARACTERS: Final = 200


@contextmanager
def mistakes_answered(server: Server[Any]) -> Generator[None]:
    """Answer the mistakes of clients with -32602 and the text of the SDK, and log one line for each.

    On exit the handlers of the server are restored.
    """
    loggers = [logging.getLogger(name) for name in _SDK_LOGGERS]
    with ExitStack() as stack:
        for method in _METHODS:
            stack.enter_context(wrapped_handler(server, method, partial(_raise_mistakes, method)))
        for logger in loggers:
            logger.addFilter(_shorten_line)
            stack.callback(logger.removeFilter, _shorten_line)
        yield


def _raise_mistakes(method: str, handler: Handler) -> Handler:
    async def handle(ctx: Any, params: Any) -> Any:
        try:
            return await handler(ctx, params)
        except Exception as exception:
            mistake = _find_mistake(handler, exception)
            if mistake is None:
                raise
            if not isinstance(exception, MCPError):  # else the SDK or FastMCP has logged it
                _log.warning("handler.rejected", method=method, error=mistake.message[:_MAX_LOGGED_CHARACTERS])
            raise MCPError.from_error_data(mistake) from exception

    return handle


def _find_mistake(handler: Handler, exception: Exception) -> ErrorData | None:
    """Return the error for a request that failed because of what the client sent; `None` for any other fault."""
    reason = _find_argument_error(exception)
    if isinstance(exception, MCPError):
        error = exception.error
        if reason is None or error.code != INTERNAL_ERROR:
            return None
        return ErrorData(code=INVALID_PARAMS, message=_with_reason(error.message, reason), data=error.data)
    if isinstance(exception, ValidationError) or (reason is None and not _is_refusal(handler, exception)):
        return None
    return ErrorData(code=INVALID_PARAMS, message=_with_reason(str(exception), reason))


def _is_refusal(handler: Handler, exception: Exception) -> bool:
    """Return whether the SDK, or the handler of a low-level server itself, has refused the request."""
    if type(exception) is not ValueError:
        return False
    raised_by = _raised_by(exception)
    if raised_by is not MCPServer.get_prompt.__code__:
        return raised_by is not None and raised_by is getattr(handler, "__code__", None)
    # It raises again, with the same text, what it or `Prompt.render` has raised.
    cause = exception.__cause__
    refusals = (MCPServer.get_prompt.__code__, Prompt.render.__code__)
    return type(cause) is ValueError and cause.__cause__ is None and _raised_by(cause) in refusals


def _raised_by(exception: BaseException) -> CodeType | None:
    """Return the code of the function that has raised an exception."""
    code = None
    traceback = exception.__traceback__
    while traceback is not None:
        code, traceback = traceback.tb_frame.f_code, traceback.tb_next
    return code


def _find_argument_error(exception: BaseException) -> ValueError | None:
    """Return the error for wrong arguments that an exception was raised for; `None` if there is none.

    It is an error of pydantic (`ValidationError` is a `ValueError`), or of FastMCP's conversion of a text.
    """
    for each in _chain(exception):
        if isinstance(each, ValueError) and _is_for_arguments(each):
            return each
    return None


def _chain(exception: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        yield exception
        context = None if exception.__suppress_context__ else exception.__context__
        exception = exception.__cause__ or context


def _is_for_arguments(error: ValueError) -> bool:
    modules: list[str] = []
    traceback = error.__traceback__
    while traceback is not None:
        modules.append(str(traceback.tb_frame.f_globals.get("__name__")))
        traceback = traceback.tb_next
    if not modules or any(module.partition(".")[0] not in _FRAMEWORKS for module in modules):
        return False  # a function of the server's author has run
    if not isinstance(error, ValidationError):
        return modules[-1] == _FASTMCP_RESOURCE
    return modules[-1] == _VALIDATED_CALL or (modules[-1] == "pydantic.type_adapter" and _FASTMCP_PROMPT in modules)


def _with_reason(text: str, error: ValueError | None) -> str:
    """Return the text of the SDK, with the reason if it does not contain that."""
    missing = [reason for reason, message in _reasons(error) if message not in text]
    return f"{text}: {'; '.join(missing)}" if missing else text


def _reasons(error: ValueError | None) -> Iterator[tuple[str, str]]:
    """Yield the reasons for an error: each with the name of the argument, and the message alone."""
    if isinstance(error, ValidationError):
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            yield f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}", fault["msg"]
    elif error is not None:
        yield str(error), str(error)


def _shorten_line(record: logging.LogRecord) -> bool:
    """Log a mistake of a client, which the SDK or FastMCP logs, as a warning without a traceback."""
    exception = record.exc_info[1] if record.exc_info else None
    if exception is None:
        return True
    argument_error = _find_argument_error(exception)
    if argument_error is not None or _is_of_fastmcp(exception):
        reason = _with_reason("", argument_error).removeprefix(": ") or str(exception)
        record.msg, record.args = "%s: %r", (record.getMessage(), reason)
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def _is_of_fastmcp(exception: BaseException) -> bool:
    """Return whether an exception is FastMCP's own for arguments that are missing."""
    module = sys.modules.get("fastmcp.exceptions")
    return module is not None and isinstance(exception, module.ValidationError)
