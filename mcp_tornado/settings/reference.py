"""The reference of all settings, `docs/settings.md`, as Markdown.

To write it: `python -m mcp_tornado.settings.reference > docs/settings.md`
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from mcp_tornado.settings.table import SECTIONS, SETTINGS, Setting

_HEAD: Final = """\
<!-- Generated from mcp_tornado/settings/models.py. Do not edit. To write it again:
     python -m mcp_tornado.settings.reference > docs/settings.md -->

# Settings

`mcp-tornado config` shows every setting, its value, and the source of the value.

## Where settings come from

From the strongest to the weakest:

1. The command line: `mcp-tornado serve --port 9000`.
2. Variables: `MCP_TORNADO_<SECTION>__<KEY>`, with two underscores between the section and the key.
3. `.secrets.toml` in the working directory. It has the same layout as `settings.toml`. Never commit it.
4. `settings.toml` in the working directory.
5. The defaults below.

In a file, every setting belongs to an environment. The table `[default]` applies to all environments. The table of the
current environment is stronger:

```toml
# settings.toml
[default.server]
port = 9000

[production.server]
host = "0.0.0.0"
allowed_hosts = ["mcp.example.com"]
```

The variable `MCP_TORNADO_ENV` or the option `--env` selects the environment. There are `development` (the default),
`testing` and `production`, and every further one that has a table in `settings.toml`. A table whose name shortens or
misspells one of these or `default`, such as `[prod]` or `[defualt]`, is an error.

A table in a stronger source is merged into the weaker one. Every other value, including a list, replaces the weaker
one.

The value of a variable is read as TOML (`9000`, `true`, `["a", "b"]`, `{a = 1}`). It is read as text if it is not TOML.
A text that looks like a number needs quotes of its own (`'"12345"'`). A variable can also hold a whole section, or one
option of a store:

```sh
export MCP_TORNADO_SERVER='{port = 9000, workers = 2}'
export MCP_TORNADO_SERVER__PORT=9001
export MCP_TORNADO_SESSIONS__STORE_OPTIONS__TIMEOUT=5
```

The variable of a single setting is stronger than that of its section. The name of an option in upper case is read in
lower case (`timeout`). The variables that Kubernetes sets for a Service named `mcp-tornado` are ignored.

An application that embeds mcp-tornado passes the same sections and keys to `create_app`, as one dict for each section:
`create_app(server, sessions={"store": "memory://"})`. `create_app` reads no files and no variables.

## What is checked

mcp-tornado checks all settings before it starts. It does not start if a setting is unknown or a value is not allowed.
The message has one line for each problem: the setting, its value, the values that are allowed, and the source.

Types are strict: `"8000"` is not a number, `true` is not a number, and `1.0` is not a whole number. A number of seconds
can be a whole number or a decimal number.

## Secrets

Put secrets into `.secrets.toml` or into variables. `mcp-tornado config` and error messages show `***` in place of

- the user and the password in a URL;
- URL parameters and store options that have the name of a secret, such as `password`, `token` or `key`;
- settings whose whole value is secret. Their descriptions say so.

If mcp-tornado cannot determine where a secret ends, it masks more than the secret.
"""
_SECRECY: Final = {
    "none": "",
    "parts": " Secrets in the value are masked.",
    "whole": " The whole value is secret.",
}


def render_reference() -> str:
    """Return the reference as Markdown."""
    return "\n".join([_HEAD, *_render_sections()])


def _render_sections() -> Iterator[str]:
    yield "## Without a section\n"
    yield _render_table([setting for key, setting in SETTINGS.items() if "." not in key])
    for section, model in SECTIONS.items():
        yield f"## `{section}`\n"
        yield f"{inspect.getdoc(model)}\n"
        yield _render_table([setting for key, setting in SETTINGS.items() if key.startswith(f"{section}.")])


def _render_table(settings: Sequence[Setting]) -> str:
    rows = [
        f"| `{setting.key}` | {_escape(setting.allowed)} | `{_format_default(setting.default)}` "
        f"| {setting.description}{_SECRECY[setting.secrecy]} |"
        for setting in settings
    ]
    return "\n".join(["| setting | allowed values | default | description |", "|---|---|---|---|", *rows, ""])


def _format_default(default: object) -> str:
    """Return a default as TOML, which for these values is JSON; `not set` for `None`."""
    return "not set" if default is None else json.dumps(default)


def _escape(text: str) -> str:
    return re.sub(r"([*_|<>~\[\]])", r"\\\1", text)


if __name__ == "__main__":
    print(render_reference(), end="")
