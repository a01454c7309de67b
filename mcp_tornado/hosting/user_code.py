"""Faults in the user's code: one line that says what failed, and the traceback from the user's first line on."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Final

_LIBRARIES: Final = frozenset({"mcp_tornado", "mcp", "fastmcp", "anyio", "starlette", "tornado", "uvloop"})
"""The libraries, beside the standard library, that call the user's code."""


class UserCodeFailed(Exception):
    """The user's code has raised an exception; the message is one line that says what failed.

    Args:
        subject: What failed: `the server's lifespan failed`.
        error: The exception.
    """

    def __init__(self, subject: str, error: BaseException) -> None:
        super().__init__(f"{subject}: {_summarize(error)}")
        self.traceback: Final = format_user_traceback(error)


def _summarize(error: BaseException) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__qualname__}: {first_line}" if first_line else type(error).__qualname__


def format_user_traceback(error: BaseException) -> str:
    """Return the traceback of an exception, without the frames that only lead to the user's code.

    If no frame is the user's, the whole traceback is returned. A `SyntaxError` in the first file needs no frame: it
    names the file and the line itself.
    """
    frames = _from_user_frame(error.__traceback__)
    if frames is None and not isinstance(error, SyntaxError):
        frames = error.__traceback__
    return "".join(traceback.format_exception(type(error), error, frames))


def _from_user_frame(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None:
        package = str(frames.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _LIBRARIES and package not in sys.stdlib_module_names:
            return frames
        frames = frames.tb_next
    return None
