"""How much a pod may send and receive: the bandwidth annotations, and a token bucket for a rate.

``cri.validate`` and ``cri.plan`` read the annotations, ``network.shaping`` makes the buckets,
``network.cni.capabilities`` tells plugins the same rates.

Invariant: pure; a rate is one that Kubernetes takes, or refused with the annotation's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from runtime.errors import InvalidArgument

INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
"""The annotations, as seen from the pod: what it receives, what it sends."""

LOWEST, HIGHEST = 1000, 10**15
"""Bits a second, the bounds that Kubernetes sets (1k and 1P)."""

_MOST_CHARACTERS = 64
_MOST_EXPONENT = 3 * _MOST_CHARACTERS
"""Beyond it a number of so few characters is out of bounds whatever its digits are."""

_QUANTITY = re.compile(r"([+-]?)(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?(?:(n|u|m|k|[MGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]+))?")
_FACTORS = {unit: Fraction(10) ** (3 * (power - 3)) for power, unit in enumerate(("n", "u", "m", "", *"kMGTPE"))}
_FACTORS |= {f"{unit}i": Fraction(2) ** (10 * power) for power, unit in enumerate("KMGTPE", 1)}

AHEAD_SECONDS = Fraction(1, 20)
"""What a pod that was quiet may send at once, and how long what it sends too fast may wait, each as
time of its rate. A kernel that is late by no more than this still gives the whole rate."""

BURST_FRAMES, QUEUE_FRAMES = 2, 16
"""The least of either at low rates, in whole frames: less than one would never pass, and a
connection begins with ten."""

MOST_BURST, MOST_QUEUE = 2**30, 2**31
"""Bytes; the kernel counts both in 32 bits."""

_ETHERNET_HEADER = 14


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What a pod may receive and send, in bits a second; 0 for as much as there is."""

    ingress: int = 0
    egress: int = 0


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket (tc-tbf(8)): ``rate`` in bytes a second, ``burst`` and ``queue`` in bytes. Frames
    count with their Ethernet header."""

    rate: int
    burst: int
    queue: int


def plan_bandwidth(annotations: Mapping[str, str]) -> Bandwidth | None:
    """None without an annotation.

    Raises:
        InvalidArgument: an annotation is no rate.
    """
    if INGRESS not in annotations and EGRESS not in annotations:
        return None
    rates = [parse_rate(annotations[key], key) if key in annotations else 0 for key in (INGRESS, EGRESS)]
    return Bandwidth(*rates)


def parse_rate(text: str, key: str) -> int:
    """Bits a second of a Kubernetes quantity such as ``10M``, a fraction of one rounded up as
    Kubernetes does (apimachinery, resource.Quantity). Raises InvalidArgument."""
    where = f"annotation {key}"
    matched = _QUANTITY.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
    if not matched:
        raise InvalidArgument(f"is no bandwidth such as 10M: {text[:40]!r}", object=where)
    sign, whole, fraction, unit, exponent = matched.groups("")
    number = Fraction(int(whole + fraction), 10 ** len(fraction))
    power = max(-_MOST_EXPONENT, min(_MOST_EXPONENT, int(exponent or 0)))
    rate = math.ceil(number * _FACTORS[unit] * Fraction(10) ** power)
    if sign == "-" or not LOWEST <= rate <= HIGHEST:
        raise InvalidArgument(f"must be between 1k and 1P, not {text[:40]!r}", object=where)
    return rate


def plan_bucket(rate: int, mtu: int) -> Bucket:
    """The bucket for ``rate`` bits a second on a link with this MTU."""
    each_second, frame = -(-rate // 8), mtu + _ETHERNET_HEADER
    ahead = math.ceil(each_second * AHEAD_SECONDS)
    burst = min(max(ahead, BURST_FRAMES * frame), MOST_BURST)
    return Bucket(each_second, burst, min(max(burst + ahead, QUEUE_FRAMES * frame), MOST_QUEUE))
