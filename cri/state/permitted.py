"""What may be done with a container in which state.

``cri.rpc.container_start``, ``cri.rpc.container_update`` and ``cri.execs``, for attach too, ask before
they act; ``cri.exits`` and ``cri.recovery`` record what has happened and ask nobody.

Invariant: nothing is permitted once a container has EXITED, so the times and reasons of
an exit never change once reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from cri.state.records import ContainerState
from runtime.errors import FailedPrecondition


class Action(StrEnum):
    """What a container is to be, in the words of a refusal."""

    START = "started"
    EXEC = "the target of an exec"
    ATTACH = "attached to"
    UPDATE = "updated"


PERMITTED: Mapping[Action, tuple[ContainerState, ...]] = {
    Action.START: (ContainerState.CREATED,),
    Action.EXEC: (ContainerState.RUNNING,),
    Action.ATTACH: (ContainerState.RUNNING,),
    Action.UPDATE: (ContainerState.CREATED, ContainerState.RUNNING),
}


def check_permitted(state: ContainerState, action: Action, id: str) -> None:
    """Raises FailedPrecondition when a container in ``state`` cannot be what ``action`` says."""
    permitted = PERMITTED[action]
    if state not in permitted:
        states = " or ".join(each.value for each in permitted)
        only = f"only a {states} container can be {action.value}"
        raise FailedPrecondition(f"is {state.value}; {only}", object=f"container {id}")
