"""Importing the module or the file that the argument APP names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mcp_tornado.hosting import NotServable


def import_module(name: str) -> ModuleType:
    """Import a module by its name; modules of the current directory are found too.

    Raises:
        NotServable: There is no such module.
        BaseException: Whatever the code of the module raises.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # a module that the user's module imports
        hint = "install its package, run this command in its directory, or write path/to/file.py:attribute"
        raise NotServable(f"there is no module {error.name!r}: {hint}") from error


def import_file(name: str) -> ModuleType:
    """Run a file as a module and return the module.

    The file may import modules of its directory. They do not replace the modules of the standard library and of
    installed packages: the directory comes last in `sys.path`, and a file whose name another module has gets a module
    name of its own.

    Raises:
        NotServable: There is no such file.
        BaseException: Whatever the code of the file raises.
    """
    path = Path(name).resolve()
    if not path.is_file():
        raise NotServable(f"there is no file {name}")
    directory = str(path.parent)
    if directory not in sys.path:
        sys.path.append(directory)
    module_name = _choose_module_name(path)
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise NotServable(f"{name} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # unpickling the classes of the file looks the module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _choose_module_name(path: Path) -> str:
    """Return the name of the file without its suffix, or a longer name if another module has that name."""
    stem = path.stem
    longer = f"_served_{stem.replace('.', '_')}"
    if "." in stem or stem in sys.stdlib_module_names:
        return longer
    loaded = sys.modules.get(stem)
    if loaded is not None:
        return stem if _is_file(getattr(loaded, "__file__", None), path) else longer
    spec = importlib.util.find_spec(stem)
    return stem if spec is None or _is_file(spec.origin, path) else longer


def _is_file(origin: str | None, path: Path) -> bool:
    return origin is not None and Path(origin).resolve() == path
