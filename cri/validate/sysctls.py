"""Which sysctls a pod may set: those of namespaces that it owns, with plain values.

Invariant: a name that passes is a file of one of the pod's own namespaces, whatever
its spelling, and a value is one printable line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cri.plan.sysctls import sysctl_name, sysctl_namespace
from cri.validate.text import refuse, show

NAME = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?[./])+[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
"""Kubernetes' SysctlContainSlashFmt, with upper case, which some interface names have."""
MAX_VALUE = 4096
JOINS = frozenset("+=")
"""What joins settings to lists elsewhere, and is in the value of no sysctl (CVE-2022-0811)."""


def check_sysctls(sysctls: Mapping[str, str], shared: frozenset[str], field: str) -> None:
    """``shared`` are the OCI types of the namespaces that the pod has from the node.

    Raises:
        InvalidArgument: a name of the host's or of a shared namespace, or no plain value.
    """
    seen: set[str] = set()
    for given, value in sysctls.items():
        where = f"{field}[{show(given)}]"
        if len(given) > 256 or not NAME.fullmatch(given):
            raise refuse(where, "is not the name of a sysctl")
        name = sysctl_name(given)
        if name in seen:
            raise refuse(where, "is given twice, in two spellings")
        seen.add(name)
        kind = sysctl_namespace(name)
        if kind is None:
            raise refuse(where, "does not belong to a namespace of the pod's")
        if kind in shared:
            raise refuse(where, f"belongs to the {kind} namespace, which is the node's")
        if not value or len(value) > MAX_VALUE or not value.replace("\t", " ").isprintable() or not value.isascii():
            raise refuse(where, f"must have one line of printable characters, not {show(value)}")
        if not JOINS.isdisjoint(value):
            raise refuse(where, f"must have one value, without + and =, not {show(value)}")
