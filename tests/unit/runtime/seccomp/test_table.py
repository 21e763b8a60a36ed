from __future__ import annotations

import pytest

from runtime.linux import libseccomp
from runtime.seccomp import table

ALL_NAMES = {
    *table.ALLOWED,
    *(name for names in table.ALLOWED_BY_ARCH.values() for name in names),
    *(name for names in table.ALLOWED_BY_CAPABILITY.values() for name in names),
    *(name for names in table.ALLOWED_SINCE.values() for name in names),
}


def test_no_name_is_listed_twice() -> None:
    assert len(set(table.ALLOWED)) == len(table.ALLOWED)


@pytest.mark.parametrize("name", sorted(ALL_NAMES))
def test_every_name_is_a_call_that_libseccomp_or_the_table_of_numbers_knows(name: str) -> None:
    assert libseccomp.resolve(name) is not None or name in table.NUMBERS or name in table.NUMBERS_X86_64


def test_the_numbers_agree_with_libseccomp_where_it_knows_them() -> None:
    for name, number in table.NUMBERS.items():
        assert libseccomp.resolve(name) in (None, number), name
        assert 424 <= number <= table.NEWEST


@pytest.mark.parametrize(
    "name",
    [
        "add_key",
        "keyctl",
        "request_key",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "kexec_load",
        "kexec_file_load",
        "swapon",
        "swapoff",
        "nfsservctl",
        "uselib",
        "ustat",
        "sysfs",
        "_sysctl",
        "move_pages",
        "migrate_pages",
        "pivot_root",
        "create_module",
        "get_kernel_syms",
        "query_module",
        "vm86",
        "vm86old",
    ],
)
def test_calls_that_no_capability_makes_safe_are_in_no_table(name: str) -> None:
    assert name not in ALL_NAMES


def test_what_needs_a_capability_is_not_allowed_to_all() -> None:
    for capability, names in table.ALLOWED_BY_CAPABILITY.items():
        assert not set(names) & set(table.ALLOWED), capability
