"""The folder of CNI configurations: which network is in force, and if none, why not.

``provider`` reads it at each Status and when it changes (``watch``).

Invariant: the first file in order decides, also when it is malformed: a mistake in it is
told, and never makes pods join the next network unasked.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from network.cni.conf import MAX_BYTES, ConfError, NetworkConf, is_configuration, parse_file

MAX_FILES = 256
"""Configurations that are looked at."""


@dataclass(frozen=True, slots=True)
class Reading:
    """``conf`` is None if there is no network, and ``problem`` says why. ``file`` is the path of
    the first configuration, '' without one. ``notes`` are for people."""

    conf: NetworkConf | None
    file: str
    problem: str = ""
    notes: tuple[str, ...] = ()


def list_files(folder: str) -> list[str]:
    """The names of configurations, in order."""
    try:
        return sorted(filter(is_configuration, os.listdir(folder)), key=os.fsencode)
    except OSError:
        return []


def read_directory(folder: str) -> Reading:
    names = list_files(folder)
    if not names:
        reason = f"there is no configuration (.conflist, .conf, .json) in {folder}"
        return Reading(None, "", reason if os.path.isdir(folder) else f"there is no folder {folder}")
    path = f"{folder}/{names[0]}"
    try:
        conf = read_file(path)
    except ConfError as error:
        return Reading(None, path, f"{path} {error}")
    return Reading(conf, path, notes=_note_doubles(conf, folder, names))


def _note_doubles(conf: NetworkConf, folder: str, names: list[str]) -> tuple[str, ...]:
    """Two files with one network's name are a mistake that shows nowhere else."""
    doubles = []
    for name in names[1:MAX_FILES]:
        try:
            if read_file(f"{folder}/{name}").name == conf.name:
                doubles.append(name)
        except ConfError:
            continue  # it is not in force, so nothing depends on it
    return (f"{', '.join([names[0], *doubles])} all have the network {conf.name!r}; the first wins",) if doubles else ()


def read_file(path: str) -> NetworkConf:
    """Raises ConfError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfError("is no regular file")
            text = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise ConfError("is no regular file") from None
    except OSError as error:
        raise ConfError(f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    return parse_file(text, os.path.basename(path))
