"""The contract of `EventLog` as tests, in one class for each subject."""

from mcp_tornado.testing.events.appending import AppendContract
from mcp_tornado.testing.events.availability import LogAvailabilityContract
from mcp_tornado.testing.events.bounds import BoundsContract
from mcp_tornado.testing.events.endings import EndContract
from mcp_tornado.testing.events.leases import LeaseContract
from mcp_tornado.testing.events.process_keys import ProcessKeyContract
from mcp_tornado.testing.events.reading import ReadContract
from mcp_tornado.testing.events.waiting import WaitContract


class EventLogContract(
    AppendContract,
    ReadContract,
    EndContract,
    ProcessKeyContract,
    WaitContract,
    BoundsContract,
    LeaseContract,
    LogAvailabilityContract,
):
    """The tests that every store that keeps events must pass; see `StoreContract` for how to subclass it."""
