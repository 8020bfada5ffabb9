"""The manners of TensorRT's Python bindings: which names and arguments a class of theirs takes, and what it refuses."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any, Dict, Optional


class Fake:
    """What every class has, imitated or not: it makes others as the bindings do, and its objects are counted."""

    _trt: Any
    _name: str

    def _new(self, name: str, **state: Any) -> Any:
        return getattr(self._trt, name)(_made={"_" + key: value for key, value in state.items()})

    def __del__(self) -> None:
        if "_ready" in self.__dict__:
            self._trt.living[self._ready] -= (
                1  # under the name it was made by: a layer's class is changed to its own kind
            )
            if self._name in ("IExecutionContext", "ICudaEngine") and self._trt.device is not None:
                self._trt.device.destroyed(self._name)


def enum_of(name: str, members: Any, ordered: bool = False) -> Any:
    """Like pybind11's: int() and == work, arithmetic does not."""

    def __init__(self: Any, value: int) -> None:
        self.value, self.name = value, list(members)[value]

    space = {
        "__init__": __init__,
        "__int__": lambda self: self.value,
        "__index__": lambda self: self.value,
        "__eq__": lambda self, other: type(self) is type(other) and self.value == other.value,
        "__hash__": lambda self: hash((name, self.value)),
        "__repr__": lambda self: f"<{name}.{self.name}: {self.value}>",
        "__str__": lambda self: f"{name}.{self.name}",
    }
    if ordered:
        space["__lt__"] = lambda self, other: int(self) < int(other)
        space["__le__"] = lambda self, other: int(self) <= int(other)
    made = type(name, (), space)
    for value, member in enumerate(members):
        setattr(made, member, made(value))
    made.__members__ = {member: getattr(made, member) for member in members}  # type: ignore[attr-defined]
    return made


class _Checked(type):
    """Refuses to make what the real bindings have no constructor for, and subclasses that forget the base's __init__."""

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        made = super().__call__(*arguments, **named)
        if "_ready" not in made.__dict__:
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


def class_of(module: Any, name: str, members: Dict[str, str], behaviour: Any) -> Any:
    """The class `name` of the table: the members it lists, as `behaviour` has them, a Fake."""
    space: Dict[str, Any] = {"_trt": module, "_name": name}
    for base in reversed(behaviour.__mro__[:-1]):
        space.update({key: value for key, value in vars(base).items() if key.startswith("_") and key not in _PLUMBING})
    for member, arguments in members.items():
        if member == "__init__":
            space[member] = _constructor(name, arguments, getattr(behaviour, "start", None))
        elif arguments:
            space[member] = _method(name, member, arguments, getattr(behaviour, member, None))
        else:
            space[member] = _attribute(name, member, getattr(behaviour, member, None))
    made = _Checked(name, (bytearray,) if name == "IHostMemory" else (), space)

    def __setattr__(self: Any, key: str, value: Any) -> None:
        if type(self) is made and not key.startswith("_") and key not in members:
            raise AttributeError(f"'{name}' object has no attribute '{key}'")
        object.__setattr__(self, key, value)

    made.__setattr__ = __setattr__  # type: ignore[method-assign, assignment]
    return made


_PLUMBING = {"__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__init__", "__annotations__"}
_PLUMBING |= {"__firstlineno__", "__static_attributes__"}


@lru_cache(maxsize=None)
def _signature(arguments: str) -> Optional[inspect.Signature]:
    if arguments == "(*)":
        return None
    names = [name for name in arguments.strip("()").split(",") if name]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    last = max((i for i, name in enumerate(names) if not name.endswith("?")), default=-1)
    return inspect.Signature(
        [
            inspect.Parameter(
                name.rstrip("?"), kind, default=None if name.endswith("?") and i > last else inspect._empty
            )
            for i, name in enumerate(names)
        ]
    )


def _constructor(name: str, arguments: str, start: Any) -> Any:
    signature = _signature(arguments)

    def __init__(self: Any, *given: Any, **named: Any) -> None:
        state = named.pop("_made", None)  # by another of the fake's objects, as the real ones are made in C++
        if state is None and signature is None:
            raise TypeError(f"{name}: No constructor defined!")
        bound = {} if state is not None or signature is None else signature.bind(*given, **named).arguments
        self.__dict__["_ready"] = name
        self.__dict__.update(state or {})
        self._trt.calls.append((name, "__init__"))
        self._trt.living[name] = self._trt.living.get(name, 0) + 1
        if start is not None:
            start(self, **bound)

    return __init__


def _method(name: str, member: str, arguments: str, function: Any) -> Any:
    signature = _signature(arguments)

    def call(self: Any, *given: Any, **named: Any) -> Any:
        if signature is not None:
            signature.bind(*given, **named)
        self._trt.calls.append((name, member))
        if f"{name}.{member}" in self._trt.faults:
            log_error(self._trt, self._trt.faults[f"{name}.{member}"])
            return False if getattr(function, "__annotations__", {}).get("return") == "bool" else None
        if function is None:
            raise NotImplementedError(f"the fake does not imitate {name}.{member}")
        return function(self, *given, **named)

    return call


def _attribute(name: str, member: str, prop: Any) -> property:
    def get(self: Any) -> Any:
        self._trt.calls.append((name, member))
        return prop.fget(self) if isinstance(prop, property) else self.__dict__.get("_" + member, prop)

    def put(self: Any, value: Any) -> None:
        self._trt.calls.append((name, member))
        if isinstance(prop, property):
            if prop.fset is None:
                raise AttributeError(f"can't set attribute {name}.{member}")
            prop.fset(self, value)
        self.__dict__["_" + member] = value

    return property(get, put)


def log_error(trt: Any, text: str) -> None:
    if trt._errors is not None:
        trt._errors.log(trt.ILogger.ERROR, text)


def needs_gpu(trt: Any, what: str) -> None:
    if trt.device is not None:
        trt.device.check(what)


class Dims:
    """A shape: no tuple, but indexed, compared and measured like one."""

    def __init__(self, sizes: Any) -> None:
        self._sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __eq__(self, other: Any) -> bool:
        return self._sizes == tuple(other)

    def __repr__(self) -> str:
        return repr(self._sizes)
