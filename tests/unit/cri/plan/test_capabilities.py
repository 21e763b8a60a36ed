"""Capability sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.capabilities import DEFAULT, capability_name, plan_capabilities
from runtime.capability_names import NAMES


def bounding(add: list[str], drop: list[str], *, privileged: bool = False, held: tuple[str, ...] = NAMES) -> set[str]:
    return set(plan_capabilities(add, drop, privileged=privileged, bounding=held)["bounding"])


def test_the_default_is_fourteen_of_the_kernels_names() -> None:
    assert len(DEFAULT) == 14 and set(NAMES) > DEFAULT


@pytest.mark.parametrize(
    ("add", "drop", "chosen"),
    [
        ([], [], set(DEFAULT)),
        (["NET_ADMIN"], ["chown"], (DEFAULT | {"CAP_NET_ADMIN"}) - {"CAP_CHOWN"}),
        (["ALL"], [], set(NAMES)),
        (["all"], ["SYS_ADMIN"], set(NAMES) - {"CAP_SYS_ADMIN"}),
        ([], ["ALL"], set()),
        (["CHOWN"], ["ALL"], {"CAP_CHOWN"}),
        (["ALL", "CHOWN"], ["ALL"], {"CAP_CHOWN"}),
        (["CAP_CHOWN"], ["ALL", "CHOWN"], set()),
    ],
)
def test_all_comes_first_and_dropping_wins(add: list[str], drop: list[str], chosen: set[str]) -> None:
    assert bounding(add, drop) == chosen


def test_a_privileged_container_has_all_that_the_daemon_has() -> None:
    held = tuple(name for name in NAMES if name != "CAP_SYS_RESOURCE")
    assert bounding([], ["ALL"], privileged=True, held=held) == set(held)
    assert bounding(["ALL"], [], held=held) == set(held)
    assert bounding([], [], held=("CAP_CHOWN",)) == {"CAP_CHOWN"}


@given(
    st.lists(st.sampled_from(["ALL", *NAMES])),
    st.lists(st.sampled_from(["ALL", *NAMES])),
    st.booleans(),
    st.sets(st.sampled_from(NAMES)),
)
def test_nothing_is_inheritable_ambient_or_beyond_the_daemons(
    add: list[str], drop: list[str], privileged: bool, held: set[str]
) -> None:
    sets = plan_capabilities(add, drop, privileged=privileged, bounding=held)
    assert sets["inheritable"] == sets["ambient"] == []
    assert set(sets["bounding"]) <= held
    assert sets["bounding"] == sets["effective"] == sets["permitted"]


def test_three_spellings_are_one_name() -> None:
    assert {capability_name(name) for name in ("net_raw", "NET_RAW", "CAP_NET_RAW")} == {"CAP_NET_RAW"}
    assert capability_name("all") == "ALL"
