"""A container that is ready to be started: its init has done all but become the container.

Made when the container is created, while the daemon stores and answers that, so that its start
is but a word to a process that waits. ``runtime.container`` is what it turns into; ``runtime.init``
writes where it waits.

Invariant: it is a convenience. Whatever happens to it, the container can be started as if there
had been none; and it does not outlive ``SECONDS``, so that nobody's volumes are held for nothing.
"""

from __future__ import annotations

from runtime.container import Container
from runtime.errors import AlreadyExists, NotFound
from runtime.peers import Reply
from runtime.pod import Pod
from runtime.requests import ContainerBirth

SECONDS = 60.0
"""How long it waits; kubelet starts what it has created at once."""


class Prepared:
    """Listed in ``pod.prepared`` from its birth to its release or its end."""

    def __init__(self, pod: Pod, request: ContainerBirth, script: int) -> None:
        """
        Raises:
            AlreadyExists: the container is prepared, or was started.
            Fault: it was not born; nothing is left of it.
        """
        self.id = request["container"]
        if self.id in pod.prepared or self.id in pod.containers:
            raise AlreadyExists("was started before", object=self.id)
        self._pod = pod
        self._unwanted = False
        self._waiting: list[Reply] = []
        self._container = Container(pod, request)
        self._container.prepare(request, script, self._on_gone)
        pod.prepared[self.id] = self
        self._timer = pod.loop.later(SECONDS, self.discard)

    def release(self, reply: Reply) -> None:
        """Start the container; ``reply`` as in ``Container.start``.

        Raises:
            NotFound: it has ended, or is about to.
        """
        if self._unwanted or not self._container.release(reply):
            raise NotFound("is not prepared any more", object=self.id)
        self._leave()

    def discard(self, reply: Reply | None = None) -> None:
        """End it; ``reply`` is given once it is gone."""
        self._unwanted = True
        if reply is not None:
            self._waiting.append(reply)
        self._container.give_up()

    def _on_gone(self) -> None:
        self._leave()
        for reply in self._waiting:
            reply.ok({})

    def _leave(self) -> None:
        self._timer.cancel()
        del self._pod.prepared[self.id]
