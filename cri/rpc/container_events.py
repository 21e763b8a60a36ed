"""GetContainerEvents: one subscriber of ``cri.events``, for as long as the client stays.

Invariant: whoever reads too slowly is told so by the end of its stream, after all that came
before the gap, and holds nobody up.
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from proto import api_pb2 as api
from runtime.errors import ResourceExhausted


async def get_container_events(host: Host, _request: api.GetEventsRequest, context: Any) -> None:
    """
    Raises:
        ResourceExhausted: events were lost, for the client did not take them in time.
    """
    with host.events.subscribed() as subscriber:
        await context.send_initial_metadata(())  # the client may rely on the subscription from here on
        while (event := await subscriber.next()) is not None:
            await context.write(event)
        if subscriber.overflowed:
            raise ResourceExhausted("the client was too slow and has lost events; list and subscribe again")
