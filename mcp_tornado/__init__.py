"""MCP servers with durable sessions: the Model Context Protocol on Tornado, with sessions stored as data."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_tornado import state
    from mcp_tornado.app import MCPApplication, create_app
    from mcp_tornado.hosting import NotServable
    from mcp_tornado.settings import ConfigError
    from mcp_tornado.stores.plugins import StorePluginError
    from mcp_tornado.web import SessionValidationMixin
else:
    # Importing the SDK takes about a second. These names are imported when they are first used, so that store
    # plugins and the commands that need no SDK start without it.
    _MODULES = {
        "ConfigError": "mcp_tornado.settings",
        "MCPApplication": "mcp_tornado.app",
        "NotServable": "mcp_tornado.hosting",
        "SessionValidationMixin": "mcp_tornado.web",
        "StorePluginError": "mcp_tornado.stores.plugins",
        "create_app": "mcp_tornado.app",
    }

    def __getattr__(name: str) -> object:
        if name == "state":
            return import_module("mcp_tornado.state")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "ConfigError",
    "MCPApplication",
    "NotServable",
    "SessionValidationMixin",
    "StorePluginError",
    "create_app",
    "state",
]
