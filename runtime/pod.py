"""What the containers and execs of one pod share inside its monitor.

Made by ``monitor``; ``container`` and ``exec`` reach the loop, each other and the
daemon through it.

Invariant: there is one Pod in a monitor, and one monitor a pod.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.channel import Message
from runtime.children import Children
from runtime.errors import FailedPrecondition
from runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.attach import Client
    from runtime.container import Container
    from runtime.exec import Exec
    from runtime.prepared import Prepared


class Pod:
    """``exits`` is a descriptor of the directory of exit records; ``announce`` sends an
    event to the daemon; ``note`` keeps a line for whoever looks for a fault of ours.
    ``launch`` is a descriptor of the program that carries out scripts. ``namespaces``
    are descriptors of those that the pod has for itself, by kind: network, ipc, uts,
    pid."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        launch: int,
        *,
        announce: Callable[[Message], None],
        note: Callable[[str], None],
    ) -> None:
        self.loop, self.children, self.launch = loop, children, launch
        self.announce, self.note = announce, note
        self.exits = -1
        self.namespaces: dict[str, int] = {}
        self.containers: dict[str, Container] = {}
        self.prepared: dict[str, Prepared] = {}
        self.execs: dict[str, Exec] = {}
        self.attached: dict[str, Client] = {}

    def held(self, kinds: Sequence[str]) -> list[int]:
        """The descriptors of the pod's namespaces ``kinds``; they stay the pod's.

        Raises:
            FailedPrecondition: it shares one of them with the host.
        """
        for kind in kinds:
            if kind not in self.namespaces:
                raise FailedPrecondition(f"the pod has no {kind} namespace of its own")
        return [self.namespaces[kind] for kind in kinds]
