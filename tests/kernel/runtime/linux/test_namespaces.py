from __future__ import annotations

import errno
import os

import pytest

from runtime.errors import HostFault
from runtime.linux import namespaces
from tests.kernel.runtime.forked import in_child


def test_a_new_uts_namespace_has_a_name_of_its_own() -> None:
    before = os.uname().nodename

    def work() -> str:
        namespaces.unshare(namespaces.CLONE_NEWUTS)
        namespaces.sethostname("another")
        return os.uname().nodename

    assert in_child(work) == "another"
    assert os.uname().nodename == before


def test_a_namespace_is_joined_by_its_descriptor() -> None:
    def work() -> tuple[str, str]:
        own = os.open("/proc/self/ns/ipc", os.O_RDONLY)
        first = os.readlink("/proc/self/ns/ipc")
        namespaces.unshare(namespaces.CLONE_NEWIPC)
        assert os.readlink("/proc/self/ns/ipc") != first
        namespaces.setns(own, namespaces.CLONE_NEWIPC)
        return first, os.readlink("/proc/self/ns/ipc")

    first, last = in_child(work)
    assert first == last


def test_a_namespace_of_another_kind_is_refused() -> None:
    def work() -> None:
        namespaces.setns(os.open("/proc/self/ns/ipc", os.O_RDONLY), namespaces.CLONE_NEWUTS)

    with pytest.raises(HostFault) as failed:
        in_child(work)
    assert (failed.value.call, failed.value.errno) == ("setns", errno.EINVAL)


def test_unknown_flags_and_long_names_are_refused() -> None:
    with pytest.raises(OSError, match="unshare"):
        namespaces.unshare(1)
    with pytest.raises(OSError, match="sethostname"):
        namespaces.sethostname("x" * 65)


def test_every_kind_has_its_flag() -> None:
    assert len(set(namespaces.FLAGS_BY_TYPE.values())) == len(namespaces.FLAGS_BY_TYPE) == 7
