"""The label of the program: the word goes to the process's own file, or the process ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import FailedPrecondition, Fault, HostFault
from runtime.linux import mount, namespaces
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script
from runtime.lsm.exec_label import set_exec_label
from tests.kernel.runtime.launched import carried_out, needs_launch

pytestmark = needs_launch

ATTRIBUTES = "/proc/thread-self/attr"


def process(**label: str) -> Any:
    return {"args": [], **label}


def fault_of(label: dict[str, str], before: Callable[[Script], None] = lambda script: None) -> Fault:
    """What a process ends with that does ``before``, and then sets ``label``."""

    def write(script: Script) -> None:
        before(script)
        set_exec_label(script, process(**label))

    with pytest.raises(Fault) as failed:
        carried_out(write)
    return failed.value


def test_without_a_label_nothing_is_written() -> None:
    for described in (process(), process(apparmorProfile="", selinuxLabel="")):
        script = Script()
        set_exec_label(script, described)
        assert script.bytes() == Script().bytes()


def test_the_word_names_profile_or_context() -> None:
    script = Script()
    set_exec_label(script, process(apparmorProfile="mine", selinuxLabel="u:r:t:s0"))
    written = script.bytes()
    assert b"exec mine" in written and b"thread-self/attr/apparmor/exec\0" in written
    assert b"u:r:t:s0" in written and b"thread-self/attr/exec\0" in written


def test_a_kernel_without_apparmor_is_a_fault_of_the_host() -> None:
    if os.path.exists(f"{ATTRIBUTES}/apparmor/exec"):
        pytest.skip("needs a kernel without AppArmor")
    fault = fault_of({"apparmorProfile": "mine"})
    assert isinstance(fault, HostFault) and (fault.call, fault.errno) == ("openat2", errno.ENOENT)
    assert "set the AppArmor profile: /proc/thread-self/attr/apparmor/exec" in str(fault)


def test_a_context_that_no_policy_has_is_refused() -> None:
    if not os.path.exists(f"{ATTRIBUTES}/exec"):
        pytest.skip("needs a kernel with security modules (CONFIG_SECURITY)")
    fault = fault_of({"selinuxLabel": "no:such:context:s0"})
    assert isinstance(fault, FailedPrecondition)
    assert str(fault) == "set the SELinux context: no:such:context:s0: the SELinux policy has no such context"


def bind(source: str, target: str) -> Callable[[Script], None]:
    """In a mount namespace of the process's own."""

    def write(script: Script) -> None:
        script.call("unshare", namespaces.CLONE_NEWNS)
        script.call("mount", "", "/", "", mount.MS_REC | mount.MS_PRIVATE, None)
        script.call("mount", source, target, "", mount.MS_BIND, None)

    return write


def by_path(script: Script, word: bytes) -> None:
    """The weak variant: whatever has the name is written to."""
    file = script.opened("openat", AT_FDCWD, f"{ATTRIBUTES}/exec", os.O_WRONLY, 0)
    script.call("write", file, word, len(word))


def test_a_proc_that_is_no_procfs_is_refused(tmp_path: Path) -> None:
    """CVE-2019-16884: what an image or a volume has there instead is written to, and no label is set."""
    folder = tmp_path / "thread-self" / "attr" / "apparmor"
    folder.mkdir(parents=True)
    files = [folder / "exec", folder.parent / "exec"]
    for file in files:
        file.touch()
    covered = bind(str(tmp_path), "/proc")
    for label in ({"apparmorProfile": "mine"}, {"selinuxLabel": "a:b:c:s0"}):
        fault = fault_of(label, covered)
        assert isinstance(fault, HostFault) and "/proc: is not procfs" in str(fault)
    assert {file.read_bytes() for file in files} == {b""}

    def weak(script: Script) -> None:
        covered(script)
        by_path(script, b"a:b:c:s0")

    carried_out(weak)
    assert files[1].read_bytes() == b"a:b:c:s0"


def test_another_file_of_procfs_in_its_place_is_refused() -> None:
    """CVE-2025-52881: it lies on procfs as well, and takes what is written."""
    if not os.path.exists(f"{ATTRIBUTES}/exec"):
        pytest.skip("needs a kernel with security modules (CONFIG_SECURITY)")

    def covered(script: Script) -> None:
        bind("/proc/self/comm", f"{ATTRIBUTES}/exec")(script)

    fault = fault_of({"selinuxLabel": "a:b:c:s0"}, covered)
    assert isinstance(fault, HostFault) and (fault.call, fault.errno) == ("openat2", errno.EXDEV)

    def weak(script: Script) -> None:
        covered(script)
        by_path(script, b"a:b:c:s0")

    carried_out(weak)
