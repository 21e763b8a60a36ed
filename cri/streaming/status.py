"""How a command ended, as the error stream of remote command sessions says it.

v4 and v5 carry a ``metav1.Status`` in JSON, which has the exit code; v1 to v3 have plain text
and nothing at all for success (k8s.io/apimachinery, pkg/util/remotecommand).

Invariant: what a client shows for a status is the command's or the runtime's own words, bounded.
"""

from __future__ import annotations

import json
import logging

from cri.streaming.session import CommandStreams, CommandTicket, Outcome, StreamReset
from runtime.errors import Fault

LOG = logging.getLogger("crisp.streaming")

TEXT_LIMIT = 4096
"""Characters of an error that a client is told."""
STRUCTURED = frozenset({"v4.channel.k8s.io", "v5.channel.k8s.io"})


def encode_outcome(outcome: Outcome, protocol: str) -> bytes:
    """What is written to the error stream of a session that speaks ``protocol``."""
    error = outcome.error[:TEXT_LIMIT]
    if protocol not in STRUCTURED:
        if error:
            return error.encode(errors="replace")
        return f"command terminated with exit code {outcome.code}".encode() if outcome.code else b""
    return json.dumps(plan_status(outcome.code, error), separators=(",", ":")).encode()


async def outcome_of(ticket: CommandTicket, streams: CommandStreams) -> Outcome:
    """What came of a ticket; whatever fails is told to the client, as it has nobody else to ask."""
    try:
        return await ticket.serve(streams)
    except (Fault, StreamReset) as fault:
        return Outcome(error=f"{ticket.kind}: {fault}")
    except Exception as error:  # the boundary to the serving side: a session never ends without a status
        LOG.error("%s ended unexpectedly", ticket.kind, exc_info=error)
        return Outcome(error=f"{ticket.kind}: unexpected {type(error).__name__}: {error}")


def plan_status(code: int, error: str) -> dict[str, object]:
    """A ``metav1.Status`` with what clients look at."""
    if error:
        return {
            "metadata": {},
            "status": "Failure",
            "message": f"Internal error occurred: {error}",
            "reason": "InternalError",
            "details": {"causes": [{"message": error}]},
            "code": 500,
        }
    if code:
        return {
            "metadata": {},
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: {code}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    return {"metadata": {}, "status": "Success"}
