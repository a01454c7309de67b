"""The sources of settings: files, variables and the command line.

This is the only module that imports Dynaconf. Dynaconf reads each file and each variable on its own, and `Layers`
merges them, because Dynaconf's own merging

- appends a list to the weaker list when tables are merged: `[production]` could not narrow the allowed hosts;
- keeps a history of merged tables, which does not tell the source of a single value;
- also reads `settings.local.toml`, runs a `dynaconf_hooks.py` beside the file, takes `DYNACONF_*` variables for
  settings, and lets variables such as `MERGE_ENABLED_FOR_DYNACONF` change how it works.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from dynaconf import Dynaconf
from dynaconf.loaders import toml_loader
from dynaconf.utils.parse_conf import boolean_fix, parse_conf_data  # pyright: ignore[reportUnknownVariableType]

from mcp_tornado.settings.errors import ConfigError, format_source
from mcp_tornado.settings.layers import Layers, is_table
from mcp_tornado.settings.loaded import LoadedSettings
from mcp_tornado.settings.table import SECTIONS, SETTINGS

_SETTINGS_FILE: Final = "settings.toml"
_SECRETS_FILE: Final = ".secrets.toml"
_VARIABLE_PREFIX: Final = "MCP_TORNADO_"
_ENVIRONMENT_VARIABLE: Final = "MCP_TORNADO_ENV"
_DEFAULT_TABLE: Final = "default"
_ENVIRONMENTS: Final = ("development", "testing", "production")
_MISSPELLING_RATIO: Final = 0.8
"""How similar a misspelt name is to the right one, as `difflib` measures it."""
_MISSPELLING_LENGTH: Final = 2
"""How much shorter or longer a misspelt name is: `pre-production` is an environment of its own."""


def load_settings(
    *,
    env: str | None = None,
    overrides: Mapping[str, object] = MappingProxyType({}),
    directory: Path | None = None,
) -> LoadedSettings:
    """Read the settings from files, variables and the command line, and validate them.

    The sources from the weakest to the strongest: the defaults, `settings.toml`, `.secrets.toml`, variables
    `MCP_TORNADO_<SECTION>__<KEY>`, the command line. In a file, the table of the environment is stronger than
    `[default]`. A table in a stronger source is merged into the weaker one. Any other value, including a list, replaces
    the weaker one. The value of a variable is read as TOML (`9000`, `true`, `["a", "b"]`, `{a = 1}`), or as text if it
    is not TOML. A text that looks like a number needs quotes of its own (`"12345"`).

    Args:
        env: The environment whose tables are used. By default `MCP_TORNADO_ENV` names it, else it is `development`.
        overrides: The settings of the command line, by key: `{"server.port": 9000}`.
        directory: The directory of `settings.toml` and `.secrets.toml`, by default the current directory. Neither file
            has to exist.

    Raises:
        ConfigError: A file cannot be read, a table has the misspelt name of an environment, the environment or a
            setting is unknown, or a value is not allowed.
    """
    directory = Path.cwd() if directory is None else directory
    files = {name: _read_file(directory / name) for name in (_SETTINGS_FILE, _SECRETS_FILE)}
    _check_environments(files)
    environment = _choose_environment(env, files[_SETTINGS_FILE])
    layers = Layers()
    for file, tables in files.items():
        layers.problems.extend(
            f"{file}: {name} belongs to no environment; put it under [{_DEFAULT_TABLE}] or [{environment}]"
            for name, table in tables.items()
            if not _is_environment(name, table)
        )
        for name in (_DEFAULT_TABLE, environment):
            table = tables.get(name)
            if is_table(table):
                layers.add(table, f"{file} [{name}]")
    for variable, sections in _read_variables():
        layers.add(sections, variable)
    for key, value in overrides.items():
        layers.add(_nest(key.split("."), value), "command line")
    settings = layers.validate()
    sources = {key: layers.sources.get(key, "default") for key in SETTINGS}
    return LoadedSettings(
        settings=settings,
        sources=MappingProxyType(sources),
        environment=environment,
        files=tuple(str(path.absolute()) for path in (directory / name for name in files) if path.exists()),
    )


def _nest(names: Sequence[str], value: object) -> Mapping[str, object]:
    for name in reversed(names):
        value = {name: value}
    return cast("Mapping[str, object]", value)


def _read_file(path: Path) -> dict[str, object]:
    """Read the top level of a file, by name in lower case; empty if the file does not exist."""
    # This reads the named file only (see the module's docstring). Without environments the tables are taken as they
    # are. Without casts "@format" and the like are text: a value must not read other files or variables.
    reader = cast(
        "Any",
        Dynaconf(dynaconf_skip_loaders=True, load_dotenv=False, environments=False, auto_cast=False),
    )
    own = frozenset(reader.as_dict())
    try:
        # Dynaconf only warns about a file that it cannot open.
        with path.open("rb"):
            toml_loader.load(  # pyright: ignore[reportUnknownMemberType]
                reader, env=_DEFAULT_TABLE, filename=[str(path)]
            )
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return {name.lower(): value for name, value in reader.as_dict().items() if name not in own}


def _is_environment(name: str, value: object) -> bool:
    return name not in SECTIONS and is_table(value)


def _check_environments(files: Mapping[str, Mapping[str, object]]) -> None:
    """Check that no table has the shortened or misspelt name of a known environment; no environment would use it.

    Raises:
        ConfigError: A table has such a name.
    """
    problems = [
        f"{file}: [{name}] is not an environment; did you mean [{meant}]?"
        for file, tables in files.items()
        for name, table in tables.items()
        if _is_environment(name, table) and (meant := _meant_environment(name)) is not None
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _meant_environment(name: str) -> str | None:
    """Return the known environment that a name shortens or misspells; `None` for a further environment."""
    known = (_DEFAULT_TABLE, *_ENVIRONMENTS)
    if name.rstrip("0123456789_-") in known:
        return None  # a known environment, or one of several: production2
    shortened = [each for each in known if each.startswith(name)]
    similar_in_length = [each for each in known if abs(len(each) - len(name)) <= _MISSPELLING_LENGTH]
    misspelt = difflib.get_close_matches(name, similar_in_length, n=1, cutoff=_MISSPELLING_RATIO)
    return next(iter([*shortened, *misspelt]), None)


def _choose_environment(env: str | None, tables: Mapping[str, object]) -> str:
    """Return the environment to use, in lower case.

    Raises:
        ConfigError: There is no such environment.
    """
    chosen = os.environ.get(_ENVIRONMENT_VARIABLE, _ENVIRONMENTS[0]) if env is None else env
    further = (name for name, table in tables.items() if _is_environment(name, table))
    known = [*_ENVIRONMENTS, *(name for name in further if name not in (*_ENVIRONMENTS, _DEFAULT_TABLE))]
    if chosen.lower() not in known:
        source = format_source(_ENVIRONMENT_VARIABLE if env is None else None)
        raise ConfigError(f"{chosen!r} is not an environment; there are {', '.join(known)}{source}")
    return chosen.lower()


def _read_variables() -> Iterator[tuple[str, Mapping[str, object]]]:
    """Read the variables that hold settings, each as a layer of its own; a variable of a whole table comes first."""
    foreign = _kubernetes_prefixes()
    for variable in sorted(os.environ, key=lambda name: (name.count("__"), name)):
        if not variable.startswith(_VARIABLE_PREFIX) or variable == _ENVIRONMENT_VARIABLE:
            continue
        if variable.startswith(foreign):
            continue
        names = variable.removeprefix(_VARIABLE_PREFIX).split("__")
        value = parse_conf_data(
            boolean_fix(os.environ[variable]),
            tomlfy=True,
            box_settings={"AUTO_CAST_FOR_DYNACONF": False, "DYNABOXIFY": False},
        )
        # Variables are in upper case by convention only, so an option's name in upper case is meant in lower case. A
        # name with lower case letters, such as maxPoolSize, is meant as written.
        options = [name.lower() if name.isupper() else name for name in names[2:]]
        yield variable, _nest([*(name.lower() for name in names[:2]), *options], value)


def _kubernetes_prefixes() -> tuple[str, ...]:
    """Return the prefixes of the variables that Kubernetes sets for a Service named `mcp-tornado`.

    These variables (`MCP_TORNADO_SERVICE_HOST`, `MCP_TORNADO_PORT_8000_TCP`, ...) look like misspelt settings, and
    would stop the start.
    """
    services = [
        name.removesuffix("_SERVICE_HOST")
        for name in os.environ
        if name.startswith(_VARIABLE_PREFIX) and name.endswith("_SERVICE_HOST")
    ]
    return tuple(f"{service}_{kind}" for service in services for kind in ("SERVICE_", "PORT"))
