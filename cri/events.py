"""Container events: what GetContainerEvents streams, published where the store commits.

``cri.state.store`` tells of every record that changed, in the order of the commits and on the
event loop; that becomes an event here and goes to every subscriber's queue. ``cri.rpc.container_events``
is a subscriber.

Invariant: publishing never waits. A subscriber gets every event from its beginning on, in order and
without a gap, or its stream ends: a queue that is full takes nothing more, ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cri.rpc.messages import pod_sandbox_status, status_of_container
from cri.state.records import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from cri.state.store import Record, Store
from proto import api_pb2 as api

LOG = logging.getLogger("crisp.events")

QUEUED_EVENTS, QUEUED_BYTES = 4096, 16 * 1024 * 1024
"""What a subscriber may be behind."""


class Subscriber:
    """``overflowed``: events were lost; what is queued is still good."""

    def __init__(self) -> None:
        self.overflowed = False
        self.closed = False
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, event: bytes | None) -> bool:
        """False when it is full, now or before; None is an event that cannot be had."""
        if event is None or len(self._queue) >= QUEUED_EVENTS or self._bytes + len(event) > QUEUED_BYTES:
            self.overflowed = True
        elif not self.overflowed:
            self._queue.append(event)
            self._bytes += len(event)
        self._wake.set()
        return not self.overflowed

    def close(self) -> None:
        self.closed = True
        self._wake.set()

    async def next(self) -> bytes | None:
        """The next event; None when there is none and never will be another."""
        while not self._queue:
            if self.overflowed or self.closed:
                return None
            self._wake.clear()
            await self._wake.wait()
        event = self._queue.popleft()
        self._bytes -= len(event)
        return event


class Events:
    """``dropped`` is called for each event that a subscriber did not get."""

    def __init__(self, store: Store, dropped: Callable[[], None]) -> None:
        self._store = store
        self._dropped = dropped
        self._subscribers: set[Subscriber] = set()
        store.watch(self._changed)

    @contextmanager
    def subscribed(self) -> Iterator[Subscriber]:
        """From here on nothing is missed, until the end of the block."""
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    def close(self) -> None:
        """The daemon stops: every stream ends once it has sent what it has."""
        for subscriber in self._subscribers:
            subscriber.close()

    def _changed(self, before: Record | None, after: Record | None) -> None:
        record = after or before
        if not self._subscribers or record is None:
            return
        for kind in kinds_of(before, after):
            try:
                event = message(self._store, record, kind).SerializeToString()
            except Exception:  # the commit has happened: whoever waits for it must not hear of this
                LOG.exception("no event can be made of a change", extra={"object_id": record.id})
                event = None
            for subscriber in self._subscribers:
                if not subscriber.put(event):
                    self._dropped()


def kinds_of(before: Record | None, after: Record | None) -> tuple[api.ContainerEventType.ValueType, ...]:
    """The events of one change. A sandbox is made and started at once; a container that could not be
    started was stopped."""
    if after is None:
        return (api.CONTAINER_DELETED_EVENT,)
    if isinstance(after, SandboxRecord):
        if before is None:
            return (api.CONTAINER_CREATED_EVENT, api.CONTAINER_STARTED_EVENT)
        over = before.state is SandboxState.READY and after.state is not SandboxState.READY
        return (api.CONTAINER_STOPPED_EVENT,) if over else ()
    if before is None:
        return (api.CONTAINER_CREATED_EVENT,)
    if after.state is before.state:
        return ()
    if after.state is ContainerState.RUNNING:
        return (api.CONTAINER_STARTED_EVENT,)
    return (api.CONTAINER_STOPPED_EVENT,) if after.state is ContainerState.EXITED else ()


def message(store: Store, record: Record, kind: api.ContainerEventType.ValueType) -> api.ContainerEventResponse:
    """With the pod and its containers as they are at this moment; a removed pod as it was."""
    sandbox_id = record.sandbox_id if isinstance(record, ContainerRecord) else record.id
    sandbox = store.sandbox(sandbox_id) or (record if isinstance(record, SandboxRecord) else None)
    return api.ContainerEventResponse(
        container_id=record.id,
        container_event_type=kind,
        created_at=time.time_ns(),
        pod_sandbox_status=pod_sandbox_status(sandbox) if sandbox else None,
        containers_statuses=[status_of_container(each) for each in store.containers_of(sandbox_id)],
    )
