"""The words for the values that a setting may have, derived from its declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from mcp_tornado.settings.values import YEAR_SECONDS, Distinct, Unit, Words


def describe_allowed_values(annotation: object, metadata: Sequence[object] = ()) -> str:
    """Put the values that a type allows into words: `a whole number from 0 to 65535`.

    Args:
        annotation: The type.
        metadata: What annotates the type: bounds, and the classes of `mcp_tornado.settings.values`.

    Raises:
        TypeError: There are no words for the type; annotate it with `Words`.
    """
    while get_origin(annotation) is Annotated:
        annotation, *inner = get_args(annotation)
        metadata = [*_flatten(inner), *metadata]
    for entry in metadata:
        if isinstance(entry, Words):
            return entry.words
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (Union, UnionType):
        return _describe_union([kind for kind in arguments if kind is not NoneType], metadata)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return _describe_list(arguments, metadata)
    if origin is Mapping:
        return _describe_table(arguments[1])
    if origin is bool:
        return "true or false"
    if origin is int:
        return _describe_number("a whole number", metadata)
    if origin is float:
        return _describe_number("a number", metadata)
    if origin is str:
        return "a text"
    raise TypeError(f"there are no words for {annotation}")


def _describe_union(kinds: Sequence[object], metadata: Sequence[object]) -> str:
    if set(kinds) == {int, float}:
        return _describe_number("a number", metadata)
    return "; or ".join(describe_allowed_values(kind, metadata) for kind in kinds)


def _describe_list(arguments: Sequence[object], metadata: Sequence[object]) -> str:
    item, *others = arguments
    if others != [...]:
        return "[" + ", ".join(f'"{literal}"' for kind in arguments for literal in get_args(kind)) + "]"
    qualities = [
        *(["that is not empty"] if _find_bound(metadata, "min_length") else []),
        *(["without duplicates"] if any(isinstance(entry, Distinct) for entry in metadata) else []),
        f"in which each entry is {describe_allowed_values(item)}",
    ]
    return f"a list {', '.join(qualities)}"


def _describe_table(values: object) -> str:
    return "a table" if values is Any else f"a table in which each value is {describe_allowed_values(values)}"


def _describe_number(noun: str, metadata: Sequence[object]) -> str:
    unit = next((entry.name for entry in metadata if isinstance(entry, Unit)), None)
    noun = f"{noun} of {unit}" if unit else noun
    least, above, most = (_find_bound(metadata, name) for name in ("ge", "gt", "le"))
    if least is not None and most is not None:
        return f"{noun} from {least} to {_format_highest(most, unit)}"
    bounds = [
        *([f"at least {least}"] if least is not None else []),
        *([f"above {above}"] if above is not None else []),
        *([f"at most {_format_highest(most, unit)}"] if most is not None else []),
    ]
    return ", ".join([noun, *bounds])


def _format_highest(bound: float, unit: str | None) -> str:
    years = bound // YEAR_SECONDS if unit == "seconds" else 0
    return f"{bound} ({years} years)" if years else f"{bound}"


def _flatten(metadata: Sequence[object]) -> list[object]:
    """Replace each `Field(...)`, which pydantic takes apart at the top level of a type only, with its parts."""
    return [part for entry in metadata for part in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _find_bound(metadata: Sequence[object], name: str) -> float | None:
    """Return a bound that pydantic's `Field` has put into the metadata of a type."""
    return next((getattr(entry, name) for entry in metadata if hasattr(entry, name)), None)
