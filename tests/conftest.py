"""What all tests share: the tiers by directory, the leak check, a place for temporary files.

Invariant: a test of ``kernel``, ``cri``, ``failpoints``, ``security``, ``cluster`` or ``soak`` ends with the host as
it was before; ``@pytest.mark.leaks("module")`` moves the check to the end of its module, for
tests that share a daemon.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import leaks

# Tests fork, and some of the same run use gRPC: without this its fork handlers abort the child's parent.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

hypothesis.settings.register_profile("quick", max_examples=15, deadline=None)
hypothesis.settings.register_profile("default", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("default")

HERE = Path(__file__).resolve().parent
TIERS_WITH_ROOT = ("kernel", "cri", "failpoints", "security", "cluster", "soak")

_temporary = ""


def pytest_configure(config: pytest.Config) -> None:
    """Give this run a name that its processes inherit, and temporary files a directory of their own."""
    del config
    global _temporary
    leaks.new_mark()
    reset_reserved_signals()
    # pytest's own directories stay where they are: their names are long and sockets' are short.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    _temporary = tempfile.mkdtemp(prefix="crisp-")
    tempfile.tempdir = _temporary


def pytest_unconfigure(config: pytest.Config) -> None:
    del config
    tempfile.tempdir = None
    shutil.rmtree(_temporary, ignore_errors=True)


def reset_reserved_signals() -> None:
    """Signals 32 and 33 are the C library's own. Its posix_spawn, which make uses, leaves them
    ignored, and none of its functions resets them; tests look at what a program inherits."""
    number = {"x86_64": 13, "aarch64": 134}[os.uname().machine]  # rt_sigaction(2)
    default = bytes(32)  # struct sigaction of the kernel: SIG_DFL, no flags, no mask
    for reserved in (32, 33):
        ctypes.CDLL(None).syscall(number, reserved, default, None, 8)


def tier_of(path: Path) -> str:
    """The first directory below the tests: unit, kernel, cri, …"""
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = tier_of(item.path)
        if tier in ("kernel", "cri", "failpoints", "cluster", "soak"):
            item.add_marker(tier)
        if tier in TIERS_WITH_ROOT and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: makes real namespaces, mounts and cgroups"))


def pytest_collection_finish() -> None:
    """What was imported and collected stays until the end. Without it, a look for garbage, which
    many tests do (``tests.descriptors``), takes a millisecond instead of 200."""
    gc.collect()
    gc.freeze()


def leak_scope(node: pytest.Item) -> str:
    """``test``, ``module`` or nothing: at whose end the host is compared."""
    if tier_of(node.path) not in TIERS_WITH_ROOT or os.geteuid() != 0:
        return ""
    marker = node.get_closest_marker("leaks")
    return str(marker.args[0]) if marker else "test"


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_by_the_module(request: pytest.FixtureRequest) -> Iterator[None]:
    items = [item for item in request.session.items if item.path == request.path]
    if not any(leak_scope(item) == "module" for item in items):
        yield
        return
    before = leaks.snapshot()
    yield
    refuse(leaks.new_since(before))


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest, nothing_is_left_by_the_module: None) -> Iterator[None]:
    if leak_scope(request.node) != "test":
        yield
        return
    before = leaks.snapshot()
    yield
    refuse(leaks.new_since(before))


def refuse(found: list[str]) -> None:
    if found:
        pytest.fail("left behind:\n  " + "\n  ".join(found), pytrace=False)
