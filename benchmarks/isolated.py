"""Running a measurement in a process of its own, so that earlier measurements do not affect it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def start_fresh_process() -> ProcessPoolExecutor:
    """Return an executor that runs all functions in one new process."""
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))


def run_isolated(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process, and return what it returns."""
    with start_fresh_process() as process:
        return process.submit(function, *args, **kwargs).result()
