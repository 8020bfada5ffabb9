"""Protobuf's text form, as Triton's config.pbtxt has it; written without protobuf, which a device need not have."""

from __future__ import annotations

import json
from typing import Any, Iterator, Mapping


class Word(str):
    """A name of an enumeration: written without quotes."""


COMMENT = "# "  # begins the key of a field that is a comment instead


def pbtxt(message: Mapping[str, Any]) -> str:
    """`message` as text. A mapping is a message, a list a repeated field; None is left out. A key that begins with
    COMMENT is a comment before what follows."""
    return "".join(f"{line}\n" for line in _fields(message))


def _fields(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        if name.startswith(COMMENT):
            yield f"# {' '.join(name[len(COMMENT) :].split())}"
        elif isinstance(value, Mapping):
            yield from _message(name, value)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            for each in value:
                yield from _message(name, each)
        elif isinstance(value, (list, tuple)):
            yield f"{name}: [ {', '.join(map(_scalar, value))} ]"
        elif value is not None:
            yield f"{name}: {_scalar(value)}"


def _message(name: str, value: Mapping[str, Any]) -> Iterator[str]:
    inner = list(_fields(value))
    line = f"{name} {{ {' '.join(inner)} }}" if inner else f"{name} {{ }}"
    if len(line) <= 110 and not any("#" in part for part in inner):
        yield line
        return
    yield f"{name} {{"
    yield from (f"  {part}" for part in inner)
    yield "}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
