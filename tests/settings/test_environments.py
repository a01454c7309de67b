"""Environments: the tables of `settings.toml`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_tornado.settings import ConfigError, load_settings
from tests.settings.conftest import write


@pytest.fixture(autouse=True)
def file(directory: Path) -> None:
    write(
        directory,
        "[default.server]\nport = 1\n[development.server]\nport = 2\n"
        "[production.server]\nport = 3\n[Staging.server]\nport = 4\n",
    )


def test_the_default_environment_is_development() -> None:
    assert load_settings().settings.server.port == 2


def test_the_variable_selects_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_TORNADO_ENV", "production")

    assert load_settings().settings.server.port == 3


def test_the_argument_is_stronger_than_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_TORNADO_ENV", "nonsense")

    assert load_settings(env="production").settings.server.port == 3


def test_the_case_of_an_environment_does_not_matter() -> None:
    assert load_settings(env="PRODUCTION").settings.server.port == 3


def test_a_table_of_the_file_adds_an_environment() -> None:
    loaded = load_settings(env="staging")

    assert loaded.settings.server.port == 4
    assert loaded.sources["server.port"] == "settings.toml [staging]"


def test_an_environment_without_a_table_uses_the_default_table() -> None:
    assert load_settings(env="testing").settings.server.port == 1


@pytest.mark.parametrize("name", ["prod", "", "default", "production,development"])
def test_an_unknown_environment_is_refused_and_the_known_ones_are_named(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    known = f"{name!r} is not an environment; there are development, testing, production, staging"
    with pytest.raises(ConfigError) as given:
        load_settings(env=name)
    assert str(given.value) == known

    monkeypatch.setenv("MCP_TORNADO_ENV", name)
    with pytest.raises(ConfigError) as switched:
        load_settings()
    assert str(switched.value) == f"{known} (from MCP_TORNADO_ENV)"


def test_a_table_of_the_secrets_file_adds_no_environment(directory: Path) -> None:
    write(directory, "[hidden.server]\nport = 9", ".secrets.toml")

    with pytest.raises(ConfigError, match="'hidden' is not an environment"):
        load_settings(env="hidden")


@pytest.mark.parametrize("file", ["settings.toml", ".secrets.toml"])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("prod", "production"),
        ("Prod", "production"),
        ("p", "production"),
        ("prodution", "production"),
        ("productions", "production"),
        ("defualt", "default"),
        ("defaults", "default"),
        ("dev", "development"),
        ("develop", "development"),
        ("developement", "development"),
        ("test", "testing"),
        ("tesing", "testing"),
    ],
)
def test_a_table_with_a_shortened_or_misspelt_name_is_refused(
    directory: Path, file: str, name: str, meant: str
) -> None:
    write(directory, f"[{name}.server]\nport = 9", file)
    message = f"{file}: [{name.lower()}] is not an environment; did you mean [{meant}]?"
    for env in (None, "production", name):
        with pytest.raises(ConfigError) as caught:
            load_settings(env=env)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    "name", ["staging", "qa", "local", "ci", "preproduction", "production-eu", "production2", "testing_1", "stage"]
)
def test_every_other_table_is_a_further_environment(directory: Path, name: str) -> None:
    write(directory, f"[{name}.server]\nport = 9")

    assert load_settings(env=name).settings.server.port == 9
    assert load_settings(env="production").settings.server.port == 8000


def test_the_environment_and_the_files_are_known(directory: Path) -> None:
    write(directory, "[default.server]\nport = 9", ".secrets.toml")

    loaded = load_settings(env="Staging")

    assert loaded.environment == "staging"
    assert loaded.files == (str(directory / "settings.toml"), str(directory / ".secrets.toml"))
