"""The versions of the CNI specification, and what each of them has.

``conf`` chooses the version of a network, ``result`` converts between them, ``chain``
asks what may be called.

Invariant: pure; a version that is not in ``SUPPORTED`` is never spoken.
"""

from __future__ import annotations

from collections.abc import Sequence

SUPPORTED = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Oldest first."""

NEWEST = SUPPORTED[-1]


def choose(version: str, versions: Sequence[str]) -> str:
    """The newest that is supported of ``cniVersion`` and ``cniVersions``.

    Raises:
        ValueError: there is none.
    """
    offered = [*versions, *([version] if version else [])]
    if not offered:
        raise ValueError(f"has no cniVersion; one of {', '.join(SUPPORTED)} is needed")
    known = [each for each in SUPPORTED if each in offered]
    if not known:
        raise ValueError(f"has cniVersion {', '.join(offered)[:80]}, which is none of {', '.join(SUPPORTED)}")
    return known[-1]


def has_check(version: str) -> bool:
    """CHECK, and with it the result of ADD in DEL."""
    return _since(version, "0.4.0")


def has_status(version: str) -> bool:
    """STATUS and GC."""
    return _since(version, "1.1.0")


def numbers_families(version: str) -> bool:
    """Whether each address of a result says "4" or "6"."""
    return not _since(version, "1.0.0")


def has_link_details(version: str) -> bool:
    """Whether a result's interfaces and routes have an MTU and the like."""
    return _since(version, "1.1.0")


def _since(version: str, first: str) -> bool:
    return SUPPORTED.index(version) >= SUPPORTED.index(first)
