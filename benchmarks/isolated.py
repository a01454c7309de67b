"""Running a measurement in a process of its own, where nothing that came before can disturb it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def fresh_process() -> ProcessPoolExecutor:
    """Return an executor that runs everything in one newly started process."""
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))


def isolated(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a fresh process and return what it returns."""
    with fresh_process() as process:
        return process.submit(function, *args, **kwargs).result()
