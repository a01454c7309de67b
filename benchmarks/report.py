"""The output of a benchmark: one line per figure, with its goal and whether it was met."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One measured figure; a figure without a goal explains the others."""

    what: str
    figure: str
    goal: str = ""
    met: bool | None = None
    note: str = ""
    """A comparison, printed in the place of the goal if there is none."""

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        goal = f"goal: {self.goal}" if self.goal else self.note
        return f"  {self.what:<58} {self.figure:>16}   {goal:<26} {verdict}".rstrip()


def at_most(what: str, value: float, limit: float, unit: str) -> Line:
    """Return the line of a figure whose goal is to be at most `limit`."""
    return Line(what, f"{value:,.2f} {unit}", f"at most {limit:g} {unit}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str) -> Line:
    """Return the line of a figure whose goal is to be at least `limit`."""
    return Line(what, f"{value:,.2f} {unit}", f"at least {limit:g} {unit}", value >= limit)
