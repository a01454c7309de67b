"""Values for the sessions of the tests."""

from __future__ import annotations

from typing import Any, Final


def _nested(depth: int) -> Any:
    value: Any = "the innermost"
    for level in range(depth):
        value = {"level": level, "in": [value]}
    return value


STATES: Final[dict[str, Any]] = {
    "empty": {},
    "every type of JSON": {"n": None, "t": True, "f": False, "i": 0, "d": 2.5, "s": "", "l": [], "o": {}},
    "numbers": {"l": [1, 1.0, -0.5, 1e-300, 1e300, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 + 1, 10**30]},
    "Unicode": {"ä": "日本語", "🙂": "e\u0301 \u200d \ufeff", "line\u2028": "\u0000\u0001\x7f\r\n\t"},
    "a lone surrogate": {"s": "\ud800"},
    "names that databases know": {
        "$set": {"$gt": 1},
        "a.b": {"": "no name"},
        "_id": 1,
        "__proto__": 2,
        "'; --": '"`%s{}',
    },
    "order of members": {"z": 1, "a": 2, "m": 3},
    "nested": _nested(50),
    "large": {f"member {number}": "x" * 1000 for number in range(1000)},
    "many members": {str(number): number for number in range(10_000)},
}

UNENCODABLE: Final[dict[str, Any]] = {"a set": {1, 2}, "an object": object(), "bytes": b"bytes"}
