"""The indexes that the store needs, made when it is entered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from mcp_tornado.stores import StoreUnavailable
from mcp_tornado_mongodb.deployment import Document

TTL_GRACE: Final = 300
"""Seconds after which the server removes what has expired by its own clock; clocks that differ by less do no harm."""

_NO_PART_OF_THE_OPTIONS: Final = {"key", "v", "ns", "background"}


@dataclass(frozen=True, slots=True)
class Index:
    """An index that a collection must have; the same keys with other options are another index."""

    name: str
    keys: Sequence[tuple[str, int]]
    is_ttl: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Its options, as the server tells them."""
        return {"expireAfterSeconds": TTL_GRACE} if self.is_ttl else {}


_SESSIONS: Final = (
    Index("ttl", [("times.expires", 1)], is_ttl=True),
    Index("expiry", [("times.expires_at", 1)]),
    Index("principal", [("principal", 1), ("times.expires_at", 1)]),
)
_EVENTS: Final = (Index("ttl", [("expires", 1)], is_ttl=True),)
_LEASES: Final = (Index("ttl", [("times.expires", 1)], is_ttl=True),)


async def make_indexes(
    sessions: AsyncCollection[Document], events: AsyncCollection[Document], leases: AsyncCollection[Document]
) -> None:
    """Make the indexes that the collections do not have yet.

    Raises:
        StoreUnavailable: One of another kind is in the way.
    """
    for collection, wanted in ((sessions, _SESSIONS), (events, _EVENTS), (leases, _LEASES)):
        found = await collection.index_information()
        for index in wanted:
            if not any(_is(index, information) for information in found.values()):
                _check_nothing_in_the_way(collection, index, found)
                await collection.create_index(index.keys, name=index.name, **index.options)


def _is(index: Index, information: Mapping[str, Any]) -> bool:
    options = {name: value for name, value in information.items() if name not in _NO_PART_OF_THE_OPTIONS}
    return _has_keys_of(index, information) and options == index.options


def _has_keys_of(index: Index, information: Mapping[str, Any]) -> bool:
    return [tuple(key) for key in information["key"]] == list(index.keys)


def _check_nothing_in_the_way(
    collection: AsyncCollection[Document], index: Index, found: Mapping[str, Mapping[str, Any]]
) -> None:
    for name, information in found.items():
        if name == index.name or _has_keys_of(index, information):
            keys = ", ".join(field for field, _ in index.keys)
            options = f" with {index.options}" if index.options else ""
            raise StoreUnavailable(
                f'the collection {collection.full_name} has an index "{name}" where the store needs its own '
                f'"{index.name}" on {keys}{options}: drop that index, make it anew under another name and with other '
                "keys, or name another database in the URL of the store"
            )
