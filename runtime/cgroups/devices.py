"""Which device nodes a container may make and open.

v1 has the devices controller's files, v2 a program (``runtime.linux.bpf``) that is
attached to the cgroup. ``resources`` calls ``plan_devices``.

Invariant: a container whose rules restrict anything is never started unrestricted.
"""

from __future__ import annotations

from runtime.cgroups.layout import Layout
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.spec import DeviceRule


def _use(major: int, minor: int | None = None) -> DeviceRule:
    rule: DeviceRule = {"allow": True, "type": "c", "major": major, "access": "rwm"}
    if minor is not None:
        rule["minor"] = minor
    return rule


DEFAULT_RULES: tuple[DeviceRule, ...] = (
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    _use(1, 3),  # null
    _use(1, 5),  # zero
    _use(1, 7),  # full
    _use(1, 8),  # random
    _use(1, 9),  # urandom
    _use(5, 0),  # tty
    _use(5, 2),  # ptmx
    _use(10, 200),  # net/tun
    _use(136),  # pts/*
)
"""What every container may have: make any node, use the harmless ones and its terminals."""

ALL_DEVICES: tuple[DeviceRule, ...] = ({"allow": True, "access": "rwm"},)
"""A privileged container's."""


def plan_devices(
    rules: tuple[DeviceRule, ...] | None, layout: Layout
) -> tuple[tuple[tuple[str, str], ...], tuple[DeviceRule, ...] | None]:
    """How ``rules`` are enforced: (file, value) writes for v1, or the rules for a v2 program.

    Leading rules that allow everything cost nothing: a new cgroup has what its parent
    has, and more it cannot get.

    Raises:
        InvalidArgument: a rule is not one.
        FailedPrecondition: the host can restrict devices in neither way.
    """
    restricting = list(rules or ())
    if rules != DEFAULT_RULES:
        for rule in restricting:
            _check(rule)
    while restricting and restricting[0]["allow"] and _is_all(restricting[0]):
        del restricting[0]
    if not restricting:
        return (), None
    if layout.root("devices") is not None:
        writes = _DEFAULT_WRITES if rules == DEFAULT_RULES else tuple(map(_v1_write, restricting))
        return writes, None
    if layout.v2 is not None:
        return (), tuple(restricting)
    raise FailedPrecondition("the host can restrict devices neither by v1 nor by v2", step="plan the device rules")


def _v1_write(rule: DeviceRule) -> tuple[str, str]:
    file = "devices.allow" if rule["allow"] else "devices.deny"
    if _is_all(rule):
        return file, "a"
    major, minor = rule.get("major"), rule.get("minor")
    numbers = f"{'*' if major is None else major}:{'*' if minor is None else minor}"
    return file, f"{rule.get('type', 'a')} {numbers} {rule.get('access', 'rwm')}"


def _is_all(rule: DeviceRule) -> bool:
    everything = rule.get("type", "a") == "a" and set(rule.get("access", "rwm")) == set("rwm")
    return everything and rule.get("major") is None and rule.get("minor") is None


def _check(rule: DeviceRule) -> None:
    access, kind = rule.get("access", "rwm"), rule.get("type", "a")
    numbers = [number for number in (rule.get("major"), rule.get("minor")) if number is not None]
    if kind not in ("a", "b", "c") or not access or set(access) - set("rwm") or any(n < 0 for n in numbers):
        raise InvalidArgument(f"not a device rule: {rule!r}", step="plan the device rules")
    if kind == "a" and not _is_all(rule):
        # The v1 controller takes "a" for everything and would ignore the rest of the rule.
        raise InvalidArgument(f"a rule for all types must be for all numbers and accesses: {rule!r}")


_DEFAULT_WRITES = tuple(map(_v1_write, DEFAULT_RULES))
