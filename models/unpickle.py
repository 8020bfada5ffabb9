"""What torch.save wrote, read without running any of it: tensors come back, every other object as a bag of what it held.

A pickle names functions to call. Here a name gives one of torch's own few that rebuild tensors, a plain container, or a stand-in
that keeps its arguments and does nothing. So a file may hold numpy numbers, paths, settings or a whole module, none of whose code
is looked up, let alone run. Names by which pickles attack are refused, so that such a file is told from a harmless one.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

# Modules whose names no checkpoint needs, and attacks do. Only the error depends on this list: what it lacks is a stand-in.
_ATTACKS = {
    *(
        "os",
        "posix",
        "nt",
        "sys",
        "subprocess",
        "importlib",
        "runpy",
        "pty",
        "socket",
        "shutil",
        "ctypes",
        "code",
        "codeop",
    ),
    *(
        "pdb",
        "timeit",
        "webbrowser",
        "multiprocessing",
        "pip",
        "asyncio",
        "commands",
        "operator",
        "pickle",
        "marshal",
        "types",
    ),
    *(
        "builtins",
        "__builtin__",
        "torch.hub",
        "torch.jit",
        "cProfile",
        "profile",
        "trace",
        "bdb",
        "http",
        "urllib",
        "requests",
    ),
}
_PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("collections", "Counter"): lambda *_: {},
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("builtins", "tuple"): tuple,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    ("builtins", "str"): str,
    ("builtins", "bool"): bool,
    ("builtins", "complex"): complex,
    ("builtins", "slice"): slice,
    ("torch", "Size"): torch.Size,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    ("torch", "device"): torch.device,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
}
_REBUILD = (
    *(
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
    ),
    "_rebuild_sparse_tensor",
)


class StandIn(dict[Any, Any]):
    """Whatever is no tensor: its items, its state and its arguments, for reading alone."""

    def __new__(cls, *args: Any, **named: Any) -> StandIn:
        made = super().__new__(cls)
        made.args, made.state = args, {}  # type: ignore[attr-defined]
        return made

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        self.state = {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}

    def append(self, item: Any) -> None:
        self[len(self)] = item

    def extend(self, items: Any) -> None:
        for item in items:
            self.append(item)

    def __call__(self, *args: Any, **named: Any) -> StandIn:
        return StandIn(*args)

    def __hash__(self) -> int:  # type: ignore[override]  # it may be a key
        return id(self)

    __eq__ = object.__eq__


class Refused(pickle.UnpicklingError):
    """The pickle names what attacks name."""


def _named(module: str, name: str) -> Any:
    """What stands for `module.name` in a checkpoint."""
    module = "builtins" if module == "__builtin__" else module  # as Python 2's pickles, and torch's, call it
    if (module, name) in _PLAIN:
        return _PLAIN[module, name]
    if module == "torch._utils" and name in _REBUILD:
        return lambda *args: getattr(torch._utils, name)(*args)  # not the function itself: a pickle can set attributes
    if module == "torch._tensor" and name == "_rebuild_from_type_v2":  # of a subclass of Tensor: as a plain one
        return lambda rebuild, _kind, args, _state: rebuild(*args)
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if module == "torch.nn.parameter" and name == "Parameter":
        return lambda data=None, *_: data
    roots = {module, module.partition(".")[0]}
    if roots & _ATTACKS or (module, name) == ("torch.storage", "_load_from_bytes"):
        raise Refused(f"GLOBAL {module}.{name}")
    return type("StandIn", (StandIn,), {})  # a new one each time, for the same reason


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _named(module, name)


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_INERT = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="models.unpickle")


def unpickled(path: Path) -> Any:
    """What `path` holds. Raises Refused, or whatever damage leads torch and pickle to."""
    # weights_only=False is what has torch take our unpickler, which is stricter: it looks up nothing but _named's few.
    return torch.load(path, map_location="cpu", pickle_module=_INERT, weights_only=False)


def tensors_in(held: Any, name: str = "", depth: int = 8) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of all tensors in dictionaries within dictionaries; of a whole module, as its state_dict has them."""
    if isinstance(held, Tensor):
        yield name, held
    elif isinstance(held, Mapping) and depth:
        inner = {**getattr(held, "state", {}), **held}
        for key, value in inner.items():
            within = name if key in ("_modules", "_parameters", "_buffers") else f"{name}.{key}" if name else str(key)
            if isinstance(value, list | tuple):
                value = dict(enumerate(value))
            if isinstance(value, Tensor | Mapping):
                yield from tensors_in(value, within, depth - (key not in ("_modules", "_parameters", "_buffers")))
