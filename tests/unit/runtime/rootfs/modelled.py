"""What it means to make a path below a root, worked out on dictionaries, as the expectation of tests.

Written from path_resolution(7) and not after ``launch.c``: component by component, where
that one asks the kernel first. Made from it are random roots with everything that may be
in the way.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Union

MAX_LINKS = 40
PATH_MAX, NAME_MAX = 4096, 255

Directory = dict[str, "Node"]
Node = Union[Directory, "Link", bytes]
"""A file is what it holds."""


class Link(str):
    """The target of a symbolic link."""


class Refused(Exception):
    """There is no such place, and none can be made."""


def make(root: Directory, path: str, directory: bool, exact: bool = False) -> str:
    """Change ``root`` as making ``path`` would; the place of what is there then.

    Raises:
        Refused: for the reason it says. ``root`` may have been changed.
    """
    asked = [part for part in path.split("/") if part not in ("", ".")]
    if len("/".join(asked).encode("utf-8", "surrogateescape")) >= PATH_MAX:
        raise Refused("name too long")
    if exact and (not asked or ".." in asked):
        raise Refused("no place")
    if not directory and asked[-1:] in ([], [".."]):
        raise Refused("is a directory")
    stack: list[tuple[str, Directory]] = [("", root)]
    links, made = 0, False
    while asked:
        part = asked.pop(0)
        here = stack[-1][1]
        if part in ("", "."):
            continue
        if part == "..":
            if made:
                named = not directory and all(rest in ("", ".") for rest in asked)
                raise Refused("is a directory" if named else "leads back")
            del stack[1:][-1:]
            stack = stack[:-1] or stack
            continue
        if len(part.encode("utf-8", "surrogateescape")) > NAME_MAX:
            raise Refused("name too long")
        found = here.get(part)
        if isinstance(found, Link):
            links += 1
            if exact or links > MAX_LINKS:
                raise Refused("symbolic links")
            if found.startswith("/"):
                del stack[1:]
            asked = found.split("/") + asked
        elif isinstance(found, bytes):
            if directory or asked:
                raise Refused("not a directory")
            return place(stack, part)
        elif found is None and not directory and not asked:
            here[part] = b""
            return place(stack, part)
        elif found is None and not directory and all(rest in ("", ".") for rest in asked):
            raise Refused("is a directory")
        else:
            made = made or found is None
            below: Directory = found or {} if found is None else found
            here[part] = below
            stack.append((part, below))
    if not directory:
        raise Refused("is a directory")
    return place(stack)


def place(stack: list[tuple[str, Directory]], *more: str) -> str:
    return "/".join([*(name for name, _ in stack[1:]), *more])


def put(root: Directory, path: Path) -> None:
    """Make what ``root`` has in the empty directory ``path``."""
    for name, node in root.items():
        below = path / name
        if isinstance(node, Link):
            below.symlink_to(node)
        elif isinstance(node, bytes):
            below.write_bytes(node)
        else:
            below.mkdir()
            put(node, below)


def read(path: Path) -> Directory:
    """What there is in ``path``."""
    found: Directory = {}
    for entry in os.scandir(path):
        if entry.is_symlink():
            found[entry.name] = Link(os.readlink(entry.path))
        elif entry.is_dir():
            found[entry.name] = read(Path(entry.path))
        else:
            found[entry.name] = Path(entry.path).read_bytes()
    return found


def keeps(before: Directory, after: Directory) -> bool:
    """Whether everything of ``before`` is in ``after`` unchanged."""
    for name, node in before.items():
        other = after.get(name)
        if isinstance(node, dict) and isinstance(other, dict):
            if not keeps(node, other):
                return False
        elif type(node) is not type(other) or node != other:
            return False
    return True


NAMES = ("a", "b", "c")


def some_path(chance: random.Random, longest: int = 4) -> str:
    parts = [chance.choice((*NAMES, *NAMES, "..", ".", "")) for _ in range(chance.randint(1, longest))]
    return chance.choice(("", "/")) + "/".join(parts) or "a"


def some_root(chance: random.Random, depth: int = 3) -> Directory:
    root: Directory = {}
    for name in NAMES:
        kind = chance.random()
        if kind < 0.35 and depth:
            root[name] = some_root(chance, depth - 1)
        elif kind < 0.65:
            root[name] = Link(some_path(chance))
        elif kind < 0.75:
            root[name] = b"content"
    return root
