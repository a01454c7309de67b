"""The contract of `SessionStore` as tests, in one class for each subject."""

from mcp_tornado.testing.sessions.availability import AvailabilityContract
from mcp_tornado.testing.sessions.creation import CreationContract
from mcp_tornado.testing.sessions.listing import ListingContract
from mcp_tornado.testing.sessions.removal import RemovalContract
from mcp_tornado.testing.sessions.touch import TouchContract
from mcp_tornado.testing.sessions.update import UpdateContract


class SessionStoreContract(
    CreationContract,
    TouchContract,
    UpdateContract,
    RemovalContract,
    ListingContract,
    AvailabilityContract,
):
    """The tests that every store must pass; see `StoreContract` for how to subclass it."""
