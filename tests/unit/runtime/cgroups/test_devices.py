from __future__ import annotations

import pytest

from runtime.cgroups.devices import ALL_DEVICES, DEFAULT_RULES, plan_devices
from runtime.cgroups.layout import Hierarchy, Kind, Layout
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.spec import DeviceRule

V1 = Layout(Kind.V1, (Hierarchy("/d", ("devices",), "/"),), None, frozenset(), "/", False, frozenset())
V2 = Layout(Kind.V2, (), "/c", frozenset({"cpu"}), "/", False, frozenset())
NEITHER = Layout(Kind.V1, (Hierarchy("/p", ("pids",), "/"),), None, frozenset(), "/", False, frozenset())


def test_the_default_denies_all_then_allows_the_harmless_ones() -> None:
    writes, program = plan_devices(DEFAULT_RULES, V1)
    assert program is None
    assert writes[0] == ("devices.deny", "a")
    rules = ["c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm"]
    rules += ["c 5:0 rwm", "c 5:2 rwm", "c 10:200 rwm", "c 136:* rwm"]
    assert set(writes[1:]) == {("devices.allow", rule) for rule in rules}


def test_on_v2_the_same_rules_become_a_program() -> None:
    assert plan_devices(DEFAULT_RULES, V2) == ((), DEFAULT_RULES)


@pytest.mark.parametrize("rules", [None, (), ALL_DEVICES])
@pytest.mark.parametrize("layout", [V1, V2, NEITHER])
def test_no_restriction_costs_nothing(rules: tuple[DeviceRule, ...] | None, layout: Layout) -> None:
    assert plan_devices(rules, layout) == ((), None)


def test_a_restriction_that_nothing_can_enforce_is_refused() -> None:
    with pytest.raises(FailedPrecondition):
        plan_devices(DEFAULT_RULES, NEITHER)


def test_a_later_denial_is_kept_after_everything_was_allowed() -> None:
    deny: DeviceRule = {"allow": False, "type": "b", "major": 8, "access": "w"}
    assert plan_devices((*ALL_DEVICES, deny), V1) == ((("devices.deny", "b 8:* w"),), None)


@pytest.mark.parametrize(
    "rule",
    [
        {"allow": True, "type": "p"},
        {"allow": True, "type": "c", "access": "x"},
        {"allow": True, "type": "c", "access": ""},
        {"allow": True, "type": "c", "major": -1},
        {"allow": False, "major": 1},
        {"allow": False, "type": "a", "access": "w"},
    ],
)
def test_what_is_not_a_rule_is_refused(rule: DeviceRule) -> None:
    with pytest.raises(InvalidArgument):
        plan_devices((rule,), V1)
