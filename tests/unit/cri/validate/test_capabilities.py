"""Names of capabilities."""

from __future__ import annotations

import pytest

from cri.validate.capabilities import check_capabilities
from proto import api_pb2 as api
from runtime.capability_names import NAMES
from runtime.errors import FailedPrecondition, InvalidArgument

HELD = tuple(name for name in NAMES if name != "CAP_BPF")


@pytest.mark.parametrize(
    "asked",
    [
        api.Capability(),
        api.Capability(add_capabilities=["ALL"], drop_capabilities=["all", "bpf"]),
        api.Capability(add_capabilities=["net_admin", "CAP_NET_RAW"]),
        api.Capability(add_capabilities=["BPF"], drop_capabilities=["CAP_BPF"]),
        api.Capability(drop_capabilities=["BPF"]),
    ],
)
def test_known_names_pass(asked: api.Capability) -> None:
    check_capabilities(asked, HELD, "c")


@pytest.mark.parametrize("name", ["", "CAP_", "FLY", "CAP_ALL", "net-admin", "NET_ADMIN "])
@pytest.mark.parametrize("field", ["add_capabilities", "drop_capabilities", "add_ambient_capabilities"])
def test_row_39_an_unknown_name_is_refused(field: str, name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"c.{field}: no such capability"):
        check_capabilities(api.Capability(**{field: [name]}), HELD, "c")


def test_one_that_is_named_and_lacking_fails() -> None:
    with pytest.raises(FailedPrecondition, match="CAP_BPF: crisp itself does not have it"):
        check_capabilities(api.Capability(add_capabilities=["ALL", "bpf"]), HELD, "c")


def test_ambient_ones_are_named_as_missing() -> None:
    with pytest.raises(FailedPrecondition, match="ambient capabilities"):
        check_capabilities(api.Capability(add_ambient_capabilities=["CHOWN"]), HELD, "c")
