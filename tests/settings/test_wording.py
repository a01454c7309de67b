"""The words for allowed values, which are derived from the declaration of a setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from mcp_tornado.settings.table import SETTINGS
from mcp_tornado.settings.values import Bytes, Distinct, ListOf, ListOrAny, Milliseconds, Seconds, Text, Words
from mcp_tornado.settings.wording import describe_allowed_values

Color = Annotated[str, Text("a color such as red", "[a-z]+")]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (str, "a text"),
        (int, "a whole number"),
        (Annotated[int, Field(ge=1)], "a whole number, at least 1"),
        (Annotated[int, Field(ge=1, le=9)], "a whole number from 1 to 9"),
        (Annotated[Bytes, Field(gt=0, le=9)], "a whole number of bytes, above 0, at most 9"),
        (Annotated[Milliseconds, Field(le=9)], "a whole number of milliseconds, at most 9"),
        (float, "a number"),
        (Annotated[float, Field(gt=0.5)], "a number, above 0.5"),
        (Seconds, "a number of seconds, at most 3153600000 (100 years)"),
        (Annotated[Seconds, Field(ge=0)], "a number of seconds from 0 to 3153600000 (100 years)"),
        (Literal["on", "off"], "one of on, off"),
        (Color, "a color such as red"),
        (Annotated[object, Words("a network such as 10.0.0.0/8")], "a network such as 10.0.0.0/8"),
        (ListOf[Color], "a list in which each entry is a color such as red"),
        (
            Annotated[ListOf[Color], Field(min_length=1), Distinct()],
            "a list that is not empty, without duplicates, in which each entry is a color such as red",
        ),
        (ListOrAny[Color], 'a list in which each entry is a color such as red; or ["*"]'),
        (Mapping[str, Any], "a table"),
        (
            Mapping[str, ListOf[Color]],
            "a table in which each value is a list in which each entry is a color such as red",
        ),
        (Color | None, "a color such as red"),
        (Annotated[int | None, Field(ge=1)], "a whole number, at least 1"),
        (Annotated[int | Color, Field(ge=1)], "a whole number, at least 1; or a color such as red"),
    ],
)
def test_the_words_for_a_type_name_its_bounds(annotation: object, words: str) -> None:
    assert describe_allowed_values(annotation) == words


def test_a_type_without_words_is_an_error() -> None:
    with pytest.raises(TypeError, match="there are no words for"):
        describe_allowed_values(BaseModel)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("server.port", "a whole number from 0 to 65535"),
        ("server.max_body_bytes", "a whole number of bytes, at least 1"),
        ("server.keepalive_seconds", "a number of seconds, above 0, at most 3153600000 (100 years)"),
        (
            "server.allowed_hosts",
            "a list that is not empty, in which each entry is a host name such as"
            ' "mcp.example.com", "*.example.com" or "[::1]:8000"; or ["*"]',
        ),
        ("sessions.mode", "one of required, optional, off"),
        ("sessions.store_options", "a table"),
        ("log.level", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    ],
)
def test_the_words_for_a_setting_follow_from_its_declaration(key: str, words: str) -> None:
    assert SETTINGS[key].allowed == words
