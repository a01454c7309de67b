"""Defaults of the settings, and the `settings.toml` of the repository."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from mcp_tornado.settings import Settings, describe, load_settings, settings_from_sections
from tests.settings.conftest import DEFAULTS, value_of

REPOSITORY = Path(__file__).parents[2]


def test_defaults_apply_without_files_and_variables() -> None:
    loaded = load_settings()

    assert {key: value_of(loaded.settings, key) for key in loaded.sources} == DEFAULTS
    assert set(loaded.sources.values()) == {"default"}


def test_defaults_are_the_same_for_an_embedder() -> None:
    assert settings_from_sections() == load_settings().settings == Settings()


@pytest.mark.parametrize("env", ["development", "testing", "production"])
def test_defaults_are_the_same_in_every_environment(env: str) -> None:
    assert load_settings(env=env).settings == Settings()


def test_settings_cannot_be_changed() -> None:
    loaded = load_settings()

    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.settings.server.port = 1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        loaded.sources["server.port"] = "elsewhere"  # pyright: ignore[reportIndexIssue]


def test_settings_toml_of_the_repository_changes_only_the_expected_settings(directory: Path) -> None:
    shutil.copy(REPOSITORY / "settings.toml", directory)
    changed = {
        env: {
            key: value for key, value, source in describe(load_settings(env=env)) if source.startswith("settings.toml")
        }
        for env in ("development", "testing", "production")
    }

    assert changed == {
        "development": {"log.format": "console"},
        "testing": {"server.port": 0, "log.level": "WARNING"},
        "production": {"log.format": "json"},
    }
