"""What handlers work with, made once per application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mcp_tornado.config import Settings
from mcp_tornado.kernel import Kernel
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import SessionManager
from mcp_tornado.web.guards import HostGuard, OriginGuard

SERVICES_KEY: Final = "mcp_tornado"
"""Where an application's settings hold its services, for handlers that were not made by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of one application."""

    settings: Settings
    manager: SessionManager
    kernel: Kernel
    metrics: Metrics
    hosts: HostGuard
    origins: OriginGuard
