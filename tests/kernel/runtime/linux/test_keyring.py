from __future__ import annotations

import ctypes
import errno
from typing import Any

import pytest

from runtime.linux import keyring
from runtime.linux.libc import SyscallError
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.linux.keys import has_key, plant_key, session


def test_a_key_of_the_session_is_out_of_reach_afterwards() -> None:
    if session() < 0:
        pytest.skip("this kernel has no keys, or nobody may use them")

    def work() -> tuple[bool, bool, bool, bool]:
        keyring.leave_session()  # what is planted is not to stay in the session of the tests
        planted, before = plant_key(b"crisp-test"), session()
        found = has_key(b"crisp-test")
        keyring.leave_session()
        return planted, found, has_key(b"crisp-test"), session() == before

    assert in_child(work) == (True, True, False, False)


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSYS, False), (errno.EPERM, False), (errno.EDQUOT, True)])
def test_only_a_refusal_that_leaves_keys_in_reach_is_an_error(
    monkeypatch: pytest.MonkeyPatch, number: int, told: bool
) -> None:
    def refuse(*args: Any) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(keyring, "_keyctl", refuse)
    if not told:
        keyring.leave_session()
        return
    with pytest.raises(SyscallError, match="keyctl"):
        keyring.leave_session()
