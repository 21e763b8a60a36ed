"""Steps as bytes and back: what the journal keeps of a plan, and the plan as steps.

``cri.rpc`` encodes before it acts; ``cri.recovery`` and the removal RPCs decode.

Invariant: ``decode(encode(steps)) == steps``; an unknown step is an error, never skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cri.steps.container import ContainerStep
from cri.steps.limits import LimitStep
from cri.steps.relabel import RelabelVolumes
from cri.steps.sandbox import SandboxStep

AnyStep = SandboxStep | ContainerStep | LimitStep | RelabelVolumes
DECODER = msgspec.json.Decoder(tuple[AnyStep, ...])


def encode(steps: Sequence[AnyStep]) -> bytes:
    return msgspec.json.encode(list(steps))


def decode(text: bytes) -> tuple[AnyStep, ...]:
    """Raises msgspec.ValidationError for what is not a list of known steps."""
    return DECODER.decode(text)
