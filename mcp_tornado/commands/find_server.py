"""Finding the server object that the argument APP names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mcp_tornado.hosting import NotServable


def find_server(name: str) -> object:
    """Import and return the object that `package.module:attribute` or `path/to/file.py:attribute` names.

    Raises:
        NotServable: The object does not exist, or its module cannot be imported; the message says what to do.
    """
    target, colon, attribute = name.rpartition(":")
    if not colon or not target or not attribute:
        raise NotServable(
            f"{name!r} does not name a server: write package.module:attribute or path/to/file.py:attribute"
        )
    module = _import_file(Path(target)) if target.endswith(".py") else _import_module(target)
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [key for key in dir(module) if not key.startswith("_")]
            raise NotServable(f"{target} has no {attribute!r}; it has: {', '.join(public[:20]) or 'nothing'}")
        found = getattr(found, part)
    return found


def _import_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            hint = "install its package, run this command in its directory, or write path/to/file.py:attribute"
            raise NotServable(f"there is no module {error.name!r}: {hint}") from error
        raise NotServable(f"{name} cannot be imported: {error}") from error
    except Exception as error:
        raise NotServable(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise NotServable(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise NotServable(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # The file may import modules of its directory. Unpickling its classes looks the module up in sys.modules.
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise NotServable(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
