"""Finding the server object that the argument APP names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final, TypeGuard

from mcp_tornado.commands.import_target import import_file, import_module
from mcp_tornado.hosting import NotServable, UserCodeFailed

_DEFAULT_ATTRIBUTES: Final = ("mcp", "server", "app")
_MAX_LISTED_NAMES: Final = 20


class FoundServer:
    """What APP names: a server object, or a function that returns one.

    Args:
        name: APP, with the attribute.
        module: The module that holds the object.
        value: The server object, or what the function has returned, which may be awaitable.
    """

    def __init__(self, name: str, module: ModuleType, value: object, *, is_result: bool) -> None:
        self.module: Final = module
        self._name = name
        self._value = value
        self._is_result = is_result

    async def resolve(self) -> object:
        """Return the server object; await it if it is the result of a coroutine function.

        Raises:
            NotServable: The function has returned nothing.
            UserCodeFailed: The function has raised an exception.
        """
        server = self._value
        if not self._is_result:
            return server
        if inspect.isawaitable(server):
            with _reporting(f"{self._name} failed"):
                server = await server
        if server is None:
            raise NotServable(
                f"{self._name} returned None: write a function that returns the server without running it, and name "
                "that one, or name the server object"
            )
        return server


def find_server(name: str) -> FoundServer:
    """Import the module that APP names, find the object in it, and call the object if it is a function.

    Call this outside of an event loop: the user's module, or the function, may run one of its own.

    Args:
        name: `package.module:attribute` or `path/to/file.py:attribute`. Without an attribute the first of `mcp`,
            `server` and `app` that exists is taken.

    Raises:
        NotServable: The object does not exist, or cannot be called without arguments; the message says what to do.
        UserCodeFailed: The module or the function has raised an exception.
    """
    has_no_attribute = name.endswith(".py") or ":" not in name
    target, _, attribute = (name, "", "") if has_no_attribute else name.rpartition(":")
    with _reporting(f"{target} cannot be imported"):
        module = import_file(target) if target.endswith(".py") else import_module(target)
    with _reporting(f"{name} cannot be read"):
        found = _get(module, target, attribute) if attribute else None
        if found is None and not attribute:
            attribute, found = _get_default(module, target)
    full_name = f"{target}:{attribute}"
    if isinstance(found, type):
        raise NotServable(f"{full_name} is a class: name an instance, or a function without arguments that returns one")
    if not _is_function(found):
        return FoundServer(full_name, module, found, is_result=False)
    _check_signature(found, full_name, attribute)
    with _reporting(f"{full_name}() failed"):
        return FoundServer(f"{full_name}()", module, found(), is_result=True)


def _get(module: ModuleType, target: str, attribute: str) -> object:
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise NotServable(f"{target} has no {attribute!r}; it has: {_list_names(module)}")
        found = getattr(found, part)
    return found


def _get_default(module: ModuleType, target: str) -> tuple[str, object]:
    for attribute in _DEFAULT_ATTRIBUTES:
        found = getattr(module, attribute, None)
        if found is not None and not isinstance(found, ModuleType):  # `import mcp` is no server
            return attribute, found
    raise NotServable(
        f"{target} has none of {', '.join(_DEFAULT_ATTRIBUTES)}: write {target}:attribute; it has: "
        f"{_list_names(module)}"
    )


def _list_names(module: ModuleType) -> str:
    public = [key for key in dir(module) if not key.startswith("_")]
    return ", ".join(public[:_MAX_LISTED_NAMES]) or "nothing"


def _is_function(found: object) -> TypeGuard[Callable[..., object]]:
    return inspect.isroutine(found) or isinstance(found, functools.partial)


def _check_signature(function: Callable[..., Any], name: str, attribute: str) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise NotServable(f"{name} cannot be called: name a server object") from error
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        call = f"{attribute}({', '.join(f'{parameter}=...' for parameter in required)})"
        raise NotServable(
            f"{name} needs arguments ({', '.join(required)}), and mcp-tornado calls a function without any: write "
            f"`def create_server(): return {call}` and name create_server"
        )


@contextmanager
def _reporting(subject: str) -> Generator[None]:
    """Raise what the user's code raises as `UserCodeFailed`, also `SystemExit` and other exceptions of this kind."""
    try:
        yield
    except (NotServable, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise UserCodeFailed(subject, error) from error
