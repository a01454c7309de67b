"""The indexes of the store, which are created when it is entered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from mcp_tornado.stores import StoreUnavailable
from mcp_tornado_mongodb.deployment import Document

TTL_GRACE_SECONDS: Final = 300
"""Seconds after its expiry for which the server keeps a document, because its clock may be ahead of other clocks."""

_NOT_OPTIONS: Final = {"key", "v", "ns", "background"}


@dataclass(frozen=True, slots=True)
class Index:
    """An index that a collection must have; an index on the same keys with other options is not the same."""

    name: str
    keys: Sequence[tuple[str, int]]
    is_ttl: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The options of the index, as the server lists them."""
        return {"expireAfterSeconds": TTL_GRACE_SECONDS} if self.is_ttl else {}


_SESSIONS: Final = (
    Index("ttl", [("times.expires", 1)], is_ttl=True),
    Index("expiry", [("times.expires_at", 1)]),
    Index("principal", [("principal", 1), ("times.expires_at", 1)]),
)
_EVENTS: Final = (Index("ttl", [("expires", 1)], is_ttl=True),)
_LEASES: Final = (Index("ttl", [("times.expires", 1)], is_ttl=True),)


async def create_indexes(
    sessions: AsyncCollection[Document], events: AsyncCollection[Document], leases: AsyncCollection[Document]
) -> None:
    """Create the indexes that the collections do not have yet.

    Raises:
        StoreUnavailable: A different index has the same name or the same keys.
    """
    for collection, required in ((sessions, _SESSIONS), (events, _EVENTS), (leases, _LEASES)):
        existing = await collection.index_information()
        for index in required:
            if not any(_is_same(index, information) for information in existing.values()):
                _check_no_conflict(collection, index, existing)
                await collection.create_index(index.keys, name=index.name, **index.options)


def _is_same(index: Index, information: Mapping[str, Any]) -> bool:
    options = {name: value for name, value in information.items() if name not in _NOT_OPTIONS}
    return _has_same_keys(index, information) and options == index.options


def _has_same_keys(index: Index, information: Mapping[str, Any]) -> bool:
    return [tuple(key) for key in information["key"]] == list(index.keys)


def _check_no_conflict(
    collection: AsyncCollection[Document], index: Index, existing: Mapping[str, Mapping[str, Any]]
) -> None:
    for name, information in existing.items():
        if name == index.name or _has_same_keys(index, information):
            keys = ", ".join(field for field, _ in index.keys)
            options = f" with {index.options}" if index.options else ""
            raise StoreUnavailable(
                f'the collection {collection.full_name} has an index "{name}" that conflicts with the index '
                f'"{index.name}" on {keys}{options} of the store: drop that index, create it again under another name '
                "and on other keys, or name another database in the URL of the store"
            )
