"""Exchange functions of Ultralytics for others, and put them back. Knows no spike.

A function is found by its anchor, ``module:path``, and only exchanged where its parameters are those that the new one
was written for. The new one is called with the original as its first argument.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

TESTED = ("8.4.120", "8.4.190")  # first and last release that the test suite has run with
BELOW = "8.5"

Undo = Callable[[], object]
patched: dict[str, list[Undo]] = {}  # what puts a module of Ultralytics back as it was, by its name


def is_imported(module: str) -> bool:
    """Return whether a module is imported to its end."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def check_version() -> str:
    """Return the version of Ultralytics, or raise RuntimeError if it is too old or too new."""
    import ultralytics
    from ultralytics.utils.checks import parse_version

    version = ultralytics.__version__
    if parse_version(version) < parse_version(TESTED[0]):
        problem = "too old"
    elif parse_version(version) >= parse_version(BELOW):
        problem = "too new"
    else:
        return version
    raise RuntimeError(f"ultralytics {version} is {problem}: {_tested()}")


def _tested() -> str:
    return f"tested with {TESTED[0]} to {TESTED[1]}; remedy: pip install 'ultralytics>={TESTED[0]},<{BELOW}'"


def anchor(name: str, parameters: tuple[str, ...]) -> tuple[object, str, Any]:
    """Return owner, attribute name and value of an anchor.

    Args:
        name: ``module:path``.
        parameters: Those that the function must begin with, in order.

    Raises:
        RuntimeError: If it is gone or takes other parameters.
    """
    module, path = name.split(":")
    *parents, attribute = path.split(".")
    owner = value = None
    try:
        owner = functools.reduce(getattr, parents, __import__(module, fromlist=["_"]))
        value = getattr(owner, attribute)
        taken = tuple(inspect.signature(value).parameters)
    except (ImportError, AttributeError):
        taken = None
    if taken is None or taken[: len(parameters)] != parameters:
        import ultralytics

        now = "is gone" if taken is None else f"takes ({', '.join(taken)})"
        raise RuntimeError(f"{name} of ultralytics {ultralytics.__version__} {now}: {_tested()}")
    return owner, attribute, value


def replace(name: str, parameters: tuple[str, ...], function: Callable[..., Any]) -> Undo:
    """Exchange a function or method, also where other Ultralytics modules have imported it by name.

    Args:
        name: Its anchor.
        parameters: Those that it must begin with.
        function: Called in its place as ``function(original, *args, **kwargs)``.

    Returns:
        What restores it.
    """
    owner, attribute, original = anchor(name, parameters)

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        return function(original, *args, **kwargs)

    if isinstance(owner, ModuleType):
        _rebind(original, replacement)
        return functools.partial(_rebind, replacement, original)
    as_found = vars(owner).get(attribute)
    setattr(owner, attribute, staticmethod(replacement) if isinstance(as_found, staticmethod) else replacement)
    return functools.partial(setattr, owner, attribute, as_found or original)


def _rebind(old: object, new: object) -> None:
    """Exchange a function wherever a module of Ultralytics holds it."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "ultralytics":
            for key in [key for key, value in vars(module).items() if value is old]:
                setattr(module, key, new)


def unregister() -> None:
    """Restore Ultralytics as it was."""
    while patched:
        for step in reversed(patched.popitem()[1]):
            step()
