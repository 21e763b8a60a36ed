"""The bandwidth annotations of a pod, as the capability ``bandwidth`` has them.

``capabilities`` puts the result among what plugins are told.

Invariant: pure; a rate is one that Kubernetes takes, or refused with the annotation's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from runtime.errors import InvalidArgument

INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
LOWEST, HIGHEST = 1000, 10**15
"""Bits a second, the bounds that Kubernetes sets."""

BURST = 2**31 - 1
"""Bits that may go at once. The bandwidth plugin has no rate without one; this is as good as none."""

_QUANTITY = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(?:([kMGTPE]|[KMGTPE]i)?|[eE]([0-9]{1,2}))")
_DECIMAL = {unit: 10 ** (3 * power) for power, unit in enumerate(("", "k", "M", "G", "T", "P", "E"))}
_BINARY = {unit: 2 ** (10 * power) for power, unit in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}


def plan_bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """The capability's argument; empty without an annotation.

    Raises:
        InvalidArgument: an annotation is no rate.
    """
    found: dict[str, int] = {}
    for key, direction in ((INGRESS, "ingress"), (EGRESS, "egress")):
        if key in annotations:
            found[f"{direction}Rate"] = parse_rate(annotations[key], key)
            found[f"{direction}Burst"] = BURST
    return found


def parse_rate(text: str, key: str) -> int:
    """Bits a second of a Kubernetes quantity such as ``10M``. Raises InvalidArgument."""
    matched = _QUANTITY.fullmatch(text)
    if not matched:
        raise InvalidArgument(f"is no bandwidth such as 10M: {text[:40]!r}", object=f"annotation {key}")
    number, unit, exponent = matched.groups()
    factor = 10 ** int(exponent) if exponent else {**_DECIMAL, **_BINARY}[unit or ""]
    rate = int(Decimal(number) * factor)
    if not LOWEST <= rate <= HIGHEST:
        raise InvalidArgument(f"must be between 1k and 1P, not {text[:40]!r}", object=f"annotation {key}")
    return rate
