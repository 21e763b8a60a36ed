"""Run a part of a test in a forked child: in namespaces, a root or an identity of its own.

Under coverage the child measures for itself, in memory, and its lines are added to
the parent's: after pivot_root it could not write a file.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import coverage

from runtime.errors import from_wire, to_wire

T = TypeVar("T")
Lines = dict[str, list[int]]


class ChildFailed(AssertionError):
    """The child ended without an answer, or raised what is no fault; with its traceback."""


def in_child(work: Callable[[], T]) -> T:
    """What ``work`` returns in a forked child; a Fault or OSError that it raises is raised here as a Fault."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        _run(work, writes)
    os.close(writes)
    with os.fdopen(reads, "rb") as stream:
        sent = stream.read()
    _, status = os.waitpid(pid, 0)
    if not sent:
        raise ChildFailed(f"wait status {status}")
    answer, lines = pickle.loads(sent)
    add_lines(lines)
    if "wire" in answer:
        raise from_wire(answer["wire"])
    if "traceback" in answer:
        raise ChildFailed(answer["traceback"])
    result: T = answer["result"]
    return result


def _run(work: Callable[[], Any], writes: int) -> None:
    answer: dict[str, Any]
    try:
        with measured() as lines:
            try:
                answer = {"result": work()}
            except OSError as error:  # a Fault of the host, too
                answer = {"wire": to_wire(error)}
            except Exception as error:  # noqa: BLE001 - handed to the parent
                wire = to_wire(error)
                answer = {"wire": wire} if wire["kind"] != "HostFault" else {"traceback": traceback.format_exc()}
        _write(writes, pickle.dumps((answer, lines)))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(0)


def _write(fd: int, payload: bytes) -> None:
    while payload:
        payload = payload[os.write(fd, payload) :]


@contextlib.contextmanager
def measured() -> Iterator[Lines]:
    """Fills the dictionary with the lines that ran inside, if the parent measures at all."""
    lines: Lines = {}
    if coverage.Coverage.current() is None:
        yield lines
        return
    own = measurement()
    own.start()
    try:
        yield lines
    finally:
        lines.update(finish(own))


def measurement() -> coverage.Coverage:
    """A measurement in memory of what belongs to ``runtime``."""
    own = coverage.Coverage(data_file=None, config_file=False, include=["*/runtime/*"], omit=["*/tests/*"])
    own.set_option("run:disable_warnings", ["no-data-collected"])
    return own


def finish(own: coverage.Coverage) -> Lines:
    """End ``own``: the lines that ran, by file."""
    own.stop()
    data = own.get_data()
    return {name: data.lines(name) or [] for name in data.measured_files()}


def add_lines(lines: Lines) -> None:
    """Add what a child has measured to the running measurement, if there is one."""
    current = coverage.Coverage.current()
    if current is not None and lines:
        current.get_data().add_lines(lines)
