"""The names of capabilities, and whether the daemon has what is named.

Invariant: an unknown name is never skipped.
"""

from __future__ import annotations

from collections.abc import Collection

from cri.plan.capabilities import ALL, capability_name
from cri.validate.text import not_yet, refuse, show
from proto import api_pb2 as api
from runtime.capability_names import NAMES
from runtime.errors import FailedPrecondition


def check_capabilities(asked: api.Capability, bounding: Collection[str], field: str) -> None:
    """``bounding`` is the daemon's bounding set.

    Raises:
        InvalidArgument: an unknown name.
        FailedPrecondition: one that is added by name, not dropped as well, and not in ``bounding``.
    """
    for kind, names in (
        ("add_capabilities", asked.add_capabilities),
        ("drop_capabilities", asked.drop_capabilities),
        ("add_ambient_capabilities", asked.add_ambient_capabilities),
    ):
        for name in names:
            if capability_name(name) not in (*NAMES, ALL):
                raise refuse(f"{field}.{kind}", f"no such capability: {show(name)}")
    dropped = set(map(capability_name, asked.drop_capabilities))
    for name in map(capability_name, asked.add_capabilities):
        if name != ALL and name not in bounding and name not in dropped:
            raise FailedPrecondition(f"{name}: crisp itself does not have it", object=f"{field}.add_capabilities")
    if asked.add_ambient_capabilities:
        raise not_yet(f"{field}.add_ambient_capabilities", "ambient capabilities")
