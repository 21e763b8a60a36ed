"""Children of a monitor that do one thing, say how it went, and end.

``runtime.monitor`` has them born: a look into an image is a fork that answers
(``runtime.image``), the making of mountpoints a script that ends (``runtime.mountpoints``).

Invariant: whoever asked gets one reply, when nothing of the child is needed any more.
"""

from __future__ import annotations

from runtime.errors import HostFault
from runtime.newborn import Birth, Child
from runtime.peers import Reply
from runtime.requests import CgroupDirs

_SILENT = "the child ended without an answer"


def look(step: str, object: str, reply: Reply, cgroup: CgroupDirs | None = None) -> Birth:
    """The birth of a child that looks into an image and answers."""

    def on_ready(child: Child) -> None:
        if child.answer is None:
            reply.fail(HostFault(_SILENT, step=step, object=object))
        else:
            reply.ok(child.answer)

    return Birth(object or step, on_ready=on_ready, on_failed=reply.fail, on_exit=_ignore, cgroup=cgroup)


def carry_out(step: str, reply: Reply) -> Birth:
    """The birth of a child that carries out a script and ends; its end says how it went."""

    def on_exit(status: int) -> None:
        if status:
            reply.fail(HostFault(f"the child ended with wait status {status}", step=step))
        else:
            reply.ok({})

    return Birth(step, on_ready=_wait, on_failed=reply.fail, on_exit=on_exit)


def _ignore(status: int) -> None:
    """Nobody waits for the end of a child that has answered."""


def _wait(child: Child) -> None:
    """It executes nothing: it has let go of its report because it ends."""
