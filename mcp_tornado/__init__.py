"""MCP servers whose sessions survive: the Model Context Protocol on Tornado, with sessions kept as data."""

from mcp_tornado import state
from mcp_tornado.app import MCPApplication, create_app
from mcp_tornado.hosting import NotServable
from mcp_tornado.settings import ConfigError
from mcp_tornado.stores.plugins import StorePluginError
from mcp_tornado.web import SessionValidationMixin

__all__ = [
    "ConfigError",
    "MCPApplication",
    "NotServable",
    "SessionValidationMixin",
    "StorePluginError",
    "create_app",
    "state",
]
