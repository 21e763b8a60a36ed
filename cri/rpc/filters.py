"""Which records a List RPC's filter lets through.

Fields of a filter are combined with "and"; an id may be shortened. Used by the
List, Stream and Stats RPCs of ``cri.rpc``.

Invariant: pure; an empty filter lets everything through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cri.rpc.messages import STATES, container_config, sandbox_config, sandbox_state
from cri.state.records import ContainerRecord, SandboxRecord
from proto import api_pb2 as api


def sandbox_labels(record: SandboxRecord) -> Mapping[str, str]:
    return sandbox_config(record).labels


def container_labels(record: ContainerRecord) -> Mapping[str, str]:
    return container_config(record).labels


def has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def select_sandboxes(
    records: Iterable[SandboxRecord],
    wanted: api.PodSandboxFilter | api.PodSandboxStatsFilter,
    labels: Callable[[SandboxRecord], Mapping[str, str]] = sandbox_labels,
) -> list[SandboxRecord]:
    """Serves the stats filter too, which is the same without a state. ``labels`` may know them
    without decoding the request."""
    chosen = [record for record in records if record.id.startswith(wanted.id)]
    if isinstance(wanted, api.PodSandboxFilter) and wanted.HasField("state"):
        chosen = [record for record in chosen if sandbox_state(record) == wanted.state.state]
    if wanted.label_selector:
        chosen = [each for each in chosen if has_labels(labels(each), wanted.label_selector)]
    return chosen


def select_containers(
    records: Iterable[ContainerRecord],
    wanted: api.ContainerFilter | api.ContainerStatsFilter,
    labels: Callable[[ContainerRecord], Mapping[str, str]] = container_labels,
) -> list[ContainerRecord]:
    """As ``select_sandboxes``."""
    chosen = [
        record
        for record in records
        if record.id.startswith(wanted.id) and record.sandbox_id.startswith(wanted.pod_sandbox_id)
    ]
    if isinstance(wanted, api.ContainerFilter) and wanted.HasField("state"):
        chosen = [record for record in chosen if STATES[record.state] == wanted.state.state]
    if wanted.label_selector:
        chosen = [each for each in chosen if has_labels(labels(each), wanted.label_selector)]
    return chosen
