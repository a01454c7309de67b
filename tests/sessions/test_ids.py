"""Session ids, and the keys that replace them."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from mcp_tornado.sessions import is_well_formed, new_session_id, session_key, short_key
from mcp_tornado.sessions.ids import named_key


def test_an_id_is_32_bytes_as_43_characters_of_base64url():
    for _ in range(1000):
        session_id = new_session_id()
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", session_id)
        assert len(base64.urlsafe_b64decode(session_id + "=")) == 32


def test_a_hundred_thousand_ids_are_all_different():
    assert len({new_session_id() for _ in range(100_000)}) == 100_000


def test_ids_use_every_character_of_the_alphabet():
    assert len(set("".join(new_session_id() for _ in range(1000)))) == 64


def test_ids_come_from_the_operating_system(monkeypatch):
    monkeypatch.setattr("secrets.token_bytes", lambda count: b"\x00" * count)
    assert new_session_id() == "A" * 43


def test_every_new_id_is_well_formed():
    assert all(is_well_formed(new_session_id()) for _ in range(1000))


@pytest.mark.parametrize("session_id", ["!", "~", "a" * 128, "".join(chr(code) for code in range(0x21, 0x7F))])
def test_an_id_of_1_to_128_visible_ascii_characters_is_well_formed(session_id):
    assert is_well_formed(session_id)


@pytest.mark.parametrize(
    "session_id",
    [
        "",
        "a" * 129,
        " ",
        "a b",
        " abc",
        "abc ",
        "abc\n",
        "\nabc",
        "abc\r\n",
        "a\tb",
        "abc\x00",
        "abc\x7f",
        "abc\x80",
        "ab\u00e9",
        "\u0661\u0662",
        "\U0001f600",
        "ab\u2028",
        "ab\udc80",
        *(f"a{chr(code)}b" for code in range(0x21)),
    ],
)
def test_any_other_id_is_malformed(session_id):
    assert not is_well_formed(session_id)


def test_a_key_is_the_sha256_of_the_id_as_base64url_without_padding():
    # printf abc | sha256sum
    digest = bytes.fromhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert session_key("abc") == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert session_key("abc") == "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"


def test_every_well_formed_id_has_a_key_of_43_characters():
    for session_id in ("!", "~" * 128, new_session_id()):
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", session_key(session_id))


def test_a_key_used_as_an_id_gives_another_key():
    key = session_key(new_session_id())
    assert session_key(key) != key


def test_no_id_has_the_key_of_a_name():
    for name in ("x", "", "ä", "\udc80", "x" * 1000):
        key = named_key(name)
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", key)
        assert name == "" or not name.isascii() or key != session_key(name)
    # printf ' abc' | sha256sum
    digest = bytes.fromhex("d92b1cb3a32147b86a4db0647e4bf6eda6cf160fd3b2da264c5b088c9f9ccbfa")
    assert named_key("abc") == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert not is_well_formed(" abc")


def test_the_short_key_is_the_first_8_characters_of_the_key():
    key = base64.urlsafe_b64encode(hashlib.sha256(b"x").digest()).decode()
    assert short_key(key) == key[:8]
    assert len(short_key(key)) == 8
