"""A CNI configuration made from the node's pod subnets: ``[cni] conf_template``.

kubelet sends the subnets, ``provider`` writes what this makes of them. A template is one of
containerd's: Go's text/template with the values ``.PodCIDR`` (the first), ``.PodCIDRRanges``
and ``.Routes``, of which this has actions of a value, ``range``, ``if``, ``else`` and ``end``.

Invariant: pure; an action that is not one of these is refused, never left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import InvalidArgument

_ACTION = re.compile(r"\{\{(- )?\s*(.*?)\s*( -)?\}\}", re.DOTALL)
_COMMENT = re.compile(r"/\*.*\*/", re.DOTALL)
_RANGE = re.compile(r"range\s+(?:\$(\w+)\s*,\s*\$(\w+)\s*:=\s*|\$(\w+)\s*:=\s*)?(\S+)")
_VALUE = re.compile(r"\.|\.\w+|\$\w+")


@dataclass(slots=True)
class _Block:
    """``action`` is range or if with its ``value``; ``other`` is what follows ``else``."""

    action: str
    value: str
    names: tuple[str, str] = ("", "")
    body: list[Any] = field(default_factory=list)
    other: list[Any] = field(default_factory=list)
    turned: bool = False


def render(template: str, cidrs: Sequence[str]) -> str:
    """
    Raises:
        InvalidArgument: the template is wrong.
    """
    routes = ["::/0" if ":" in cidr else "0.0.0.0/0" for cidr in cidrs]
    values: dict[str, Any] = {
        ".PodCIDR": cidrs[0] if cidrs else "",
        ".PodCIDRRanges": list(cidrs),
        ".Routes": routes,
    }
    return "".join(_render(_parse(template), values))


def _parse(template: str) -> list[Any]:
    """Text, values as ``(name,)``, and blocks."""
    top: list[Any] = []
    open_blocks: list[_Block] = []
    for piece in _pieces(template):
        inner = top
        if open_blocks:
            inner = open_blocks[-1].other if open_blocks[-1].turned else open_blocks[-1].body
        if isinstance(piece, str):
            inner.append(piece)
            continue
        (action,) = piece
        if action == "end" and open_blocks:
            open_blocks.pop()
        elif action == "else" and open_blocks and not open_blocks[-1].turned:
            open_blocks[-1].turned = True
        elif block := _block(action):
            inner.append(block)
            open_blocks.append(block)
        elif _VALUE.fullmatch(action):
            inner.append((action,))
        elif not _COMMENT.fullmatch(action):
            raise _wrong(f"has the action {{{{{action[:60]}}}}}, which is not known here")
    if open_blocks:
        raise _wrong(f"has a {open_blocks[-1].action} without an end")
    return top


def _pieces(template: str) -> Iterator[str | tuple[str]]:
    """Text, and actions as one-tuples; ``{{-`` and ``-}}`` trim the text beside them."""
    at, trim = 0, False
    for found in _ACTION.finditer(template):
        text = template[at : found.start()]
        text = text.lstrip() if trim else text
        yield text.rstrip() if found[1] else text
        yield (found[2],)
        at, trim = found.end(), bool(found[3])
    rest = template[at:]
    yield rest.lstrip() if trim else rest


def _block(action: str) -> _Block | None:
    if matched := _RANGE.fullmatch(action):
        index, item, only, value = matched.groups()
        names = (f"${index}" if index else "", f"${item or only}" if item or only else "")
        return _Block("range", _known(value), names)
    if action.startswith("if "):
        return _Block("if", _known(action[3:].strip()))
    return None


def _known(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise _wrong(f"has {value[:60]!r}, which is not known here")
    return value


def _render(parts: list[Any], values: dict[str, Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, tuple):
            yield str(_look_up(part[0], values))
        elif part.action == "if":
            yield from _render(part.body if _look_up(part.value, values) else part.other, values)
        else:
            items = _look_up(part.value, values)
            if not isinstance(items, list):
                raise _wrong(f"has a range over {part.value}, which is no list")
            for number, item in enumerate(items):
                inside = {part.names[0]: number, part.names[1]: item, ".": item}
                yield from _render(part.body, {**values, **inside})
            if not items:
                yield from _render(part.other, values)


def _look_up(name: str, values: dict[str, Any]) -> Any:
    if name not in values or not name:
        raise _wrong(f"has {name!r}, which is not known here")
    return values[name]


def _wrong(words: str) -> InvalidArgument:
    return InvalidArgument(words, step="make the CNI configuration", object="[cni] conf_template")
