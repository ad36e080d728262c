"""A recorded network (`spikeyolo.records`) to a network: objects of known classes with plain attributes.

No constructor runs, nothing is imported or evaluated, and what would act on its own is refused: hooks, attributes in
the place of methods, functions, objects of other classes.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from spikeyolo.network.addresses import known_classes
from spikeyolo.network.sound import check_names
from spikeyolo.records import (
    Method,
    Record,
    StoredTensor,
    Untrusted,
    mapping_of,
    modules,
    name_of,
    shown,
    told,
    transient,
)

DEPLOYED = ("spikeyolo.deployment", "spikeyolo.fixed_point")  # modules whose classes make a deploy form
OFFICIAL = "ultralytics.nn.modules.yolo_spikformer"
PARTS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
FORGOTTEN = ("args", "pt_path", "criterion")  # of a network: it gets its own, or needs none
MAX_TEXT = 1000  # characters of a text in an attribute
MAX_DEPTH = 12  # of containers in an attribute
MAX_VALUES = 2**18  # in all attributes together


def rebuild(network: Record) -> nn.Module:
    """Return the network of a record, in float32 and eval mode.

    Raises:
        Untrusted: If anything in it is more than a network of known blocks needs; names it.
        ValueError: If it is damaged, in deploy form, of the official SpikeYOLO, or has class names that are none.
    """
    parts = modules(network)
    built = {id(part): _empty(part, path) for path, part in parts.items()}
    filler = _Filler(built, network)
    done: set[int] = set()
    for path, part in parts.items():
        if id(part) not in done:
            done.add(id(part))
            filler.fill(part, path or "the network")
    root: Any = built[id(network)]
    try:
        root = root.float().eval()
    except Exception as e:  # whatever attributes that are missing or of another kind make it trip over
        raise ValueError(f"is damaged: {type(e).__name__}: {told(e)}") from e
    return root


def _empty(part: Record, path: str) -> nn.Module:
    """Return an object of a record's class without anything in it."""
    address = f"{part.module}.{part.name}"
    if part.module.startswith(DEPLOYED):
        raise ValueError("holds a network in deploy form: give the checkpoint that it was made of")
    if part.module == OFFICIAL:
        raise ValueError(
            "was written by the official SpikeYOLO; make a checkpoint of ours out of it first, with spikeyolo import"
        )
    cls = known_classes().get(address)
    if cls is None:
        raise Untrusted(f"has a {shown(address)[1:-1]} at {path or 'its root'}, which is no known part of a detector")
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    return module


class _Filler:
    """Gives empty modules what their records have.

    Args:
        built: Empty modules by the identity of their records.
        root: Record of the network.
    """

    def __init__(self, built: Mapping[int, nn.Module], root: Record):
        self.built, self.root = built, root
        self.left = MAX_VALUES

    def fill(self, part: Record, path: str) -> None:
        """Give a module its parameters, buffers, children and attributes.

        Raises:
            Untrusted: If it may not have one of them.
            ValueError: If its class names are none.
        """
        module: Any = self.built[id(part)]
        try:
            for name, child in mapping_of(part, "_modules").items():
                module.add_module(name_of(name), None if child is None else self.built[id(child)])
            for name, value in mapping_of(part, "_parameters").items():
                module.register_parameter(name_of(name), _parameter(value))
            for name, value in mapping_of(part, "_buffers").items():
                tensor = None if value is None else _stored(value).load()
                module.register_buffer(name_of(name), tensor, persistent=name not in transient(part))
        except (KeyError, TypeError, RuntimeError) as e:  # how torch refuses names that are taken, and other types
            raise Untrusted(f"has a part at {path} that cannot be one: {told(e)}") from e
        state: dict[str, Any] = {}
        for name, value in part.attributes.items():
            where = f"{path}: {shown(name)}"
            if name in PARTS or (part is self.root and name in FORGOTTEN):
                continue
            if part is self.root and name == "names":
                state[name] = dict(enumerate(value)) if isinstance(value, list) else value  # a list: of early releases
                check_names(state[name])
            elif isinstance(name, str) and "hook" in name:
                if value:
                    raise Untrusted(f"{where} has hooks, which would run by themselves")
            elif isinstance(value, Method):
                if name != "forward" or value.of is not part or not hasattr(type(module), value.name):
                    raise Untrusted(f"{where} is a method, which no attribute needs to be")
                state[name] = getattr(module, value.name)  # a fused block
            else:
                _check_attribute(type(module), name, where)
                state[name] = self.plain(value, where)
        try:
            module.__setstate__(state)  # classes of torch bring what older versions wrote up to date
        except Exception as e:
            raise Untrusted(f"has wrong attributes at {path}: {type(e).__name__}: {told(e)}") from e

    def plain(self, value: object, where: str, depth: int = 0) -> Any:
        """Return a copy of plain data.

        Raises:
            Untrusted: If there is anything else in it, or too much.
        """
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            raise Untrusted(f"{where} holds more than attributes do")
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            if len(value) > MAX_TEXT or not value.isprintable():
                raise Untrusted(f"{where} holds the text {shown(value)}: too long, or with control characters")
            return value
        if isinstance(value, StoredTensor):
            return value.load()
        if isinstance(value, (list, tuple, set)):
            return type(value)(self.plain(item, where, depth + 1) for item in value)
        if isinstance(value, dict):
            return {self.plain(k, where, depth + 1): self.plain(v, where, depth + 1) for k, v in value.items()}
        raise Untrusted(f"{where} holds {shown(value)}, which is no plain value")


def _stored(value: object) -> StoredTensor:
    if not isinstance(value, StoredTensor):
        raise TypeError(f"{shown(value)} is no tensor")
    return value


def _parameter(value: object) -> nn.Parameter | None:
    if value is None:
        return None
    stored = _stored(value)
    return nn.Parameter(stored.load(), requires_grad=stored.requires_grad)


def _check_attribute(cls: type, name: object, where: str) -> None:
    """Refuse an attribute in the place of a method or property of its class, or of Python's own."""
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
        raise Untrusted(f"{where} is no name of an attribute")
    hidden = (
        None if name == "type" else inspect.getattr_static(cls, name, None)
    )  # where Ultralytics has the class's name
    if callable(hidden) or hasattr(type(hidden), "__get__"):
        raise Untrusted(f"{where} would hide {cls.__name__}.{name}")
