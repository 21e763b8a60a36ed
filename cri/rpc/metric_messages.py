"""From readings to the encoded answers of ListPodSandboxMetrics.

``metric_definitions`` is the table of what is sent. A pod with a container has about a hundred
metrics whose names and labels never change, so those are encoded once, and a group of metrics
whose figures did not change costs a comparison.

Invariant: the bytes are those that protobuf would make of the same message, but for the
order of fields.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache

from cri.rpc.encoded import element, varint
from cri.rpc.messages import container_config
from cri.rpc.metric_definitions import CONTAINER_GROUPS, DEFINITIONS, POD_GROUPS
from cri.rpc.metric_table import Definition, FileSystem, Group, Subject
from cri.state.records import ContainerRecord, SandboxRecord
from cri.sweep import NO_DETAIL, ContainerReading, PodReading
from proto import api_pb2 as api

TAG = varint(api.ContainerMetrics.METRICS_FIELD_NUMBER << 3 | 2)
TIMESTAMP = bytes([api.Metric.TIMESTAMP_FIELD_NUMBER << 3])
VALUE = bytes([api.Metric.VALUE_FIELD_NUMBER << 3 | 2])
NUMBER = bytes([api.UInt64Value.VALUE_FIELD_NUMBER << 3])


@dataclass(slots=True)
class Kept:
    """What is known of an object: its record, the values of ``BASE_LABELS``, encoded, and by group what it was
    made of and its encoding."""

    record: SandboxRecord | ContainerRecord
    labels: bytes
    resources: api.LinuxContainerResources | None
    groups: dict[int, tuple[object, bytes]] = field(default_factory=dict)


class MetricMessages:
    """``root`` is where the writable layers are."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._kept: dict[str, Kept] = {}
        self._devices: dict[tuple[int, int], str] = {}

    def pods(self, readings: Sequence[PodReading]) -> list[bytes]:
        """A ``PodSandboxMetrics`` for each."""
        files = self._file_system()
        return [self._pod(reading, files) for reading in readings]

    def forget(self, id: str) -> None:
        self._kept.pop(id, None)

    def _pod(self, reading: PodReading, files: FileSystem) -> bytes:
        record = reading.record
        kept = self._kept.get(record.id)
        if kept is None or kept.record is not record:
            labels = encode_labels(("", reading.cgroup, "", record.id, record.namespace, record.name))
            kept = self._kept[record.id] = Kept(record, labels, None)
        parts = [element(api.PodSandboxMetrics.POD_SANDBOX_ID_FIELD_NUMBER, record.id.encode())]
        if reading.sample is not None:
            subject = Subject(
                usage=reading.sample.usage,
                detail=NO_DETAIL,
                began=record.created_at,
                now=reading.sample.usage.time,
                interfaces=reading.interfaces,
                device=self._device,
            )
            parts += self._metrics(kept, subject, POD_GROUPS)
        for each in reading.containers:
            body = self._container(each, record, files)
            parts.append(element(api.PodSandboxMetrics.CONTAINER_METRICS_FIELD_NUMBER, body))
        return b"".join(parts)

    def _container(self, reading: ContainerReading, pod: SandboxRecord, files: FileSystem) -> bytes:
        record = reading.record
        kept = self._kept.get(record.id)
        if kept is None or kept.record is not record:
            resources = api.LinuxContainerResources.FromString(record.resources)
            kept = self._kept[record.id] = Kept(record, encode_labels(container_labels(reading, pod)), resources)
        parts = [element(api.ContainerMetrics.CONTAINER_ID_FIELD_NUMBER, record.id.encode())]
        if reading.sample is not None:
            subject = Subject(
                usage=reading.sample.usage,
                detail=reading.detail,
                began=record.started_at,
                now=reading.sample.usage.time,
                resources=kept.resources,
                processes=reading.processes,
                layer=(reading.layer.used_bytes, reading.layer.time),
                file_system=files,
                device=self._device,
            )
            parts += self._metrics(kept, subject, CONTAINER_GROUPS)
        return b"".join(parts)

    def _metrics(self, kept: Kept, subject: Subject, groups: tuple[Group, ...]) -> list[bytes]:
        """Elements of the field ``metrics``, which has the same number in pods and containers."""
        parts = []
        for number, group in enumerate(groups):
            inputs = group.inputs(subject)
            made = kept.groups.get(number)
            if made is None or made[0] != inputs:
                encoded = b"".join(
                    [each for one in group.definitions for each in metrics_of(kept.labels, one, subject)]
                )
                made = kept.groups[number] = (inputs, encoded)
            parts.append(made[1])
        return parts

    def _file_system(self) -> FileSystem:
        info, device = os.statvfs(self._root), os.stat(self._root).st_dev
        name = self._device(os.major(device), os.minor(device))
        return FileSystem(name, info.f_blocks * info.f_frsize, info.f_files, info.f_ffree)

    def _device(self, major: int, minor: int) -> str:
        """``/dev/vda`` for 254:0; the numbers where there is no such block device."""
        found = self._devices.get((major, minor))
        if found is None:
            found = self._devices[(major, minor)] = device_name(major, minor)
        return found


def metrics_of(labels: bytes, definition: Definition, subject: Subject) -> list[bytes]:
    found = definition.read(subject)
    if found is None:
        return []
    if isinstance(found, int):
        return [metric(definition, labels, found)]
    return [metric(definition, labels + encode_labels(extra), value, at) for value, extra, at in found]


def metric(definition: Definition, labels: bytes, value: int, at: int = 0) -> bytes:
    """An element of the field ``metrics``."""
    number = NUMBER + varint(value) if value else b""
    moment = TIMESTAMP + varint(at) if at else b""
    body = b"".join((head(definition.name, definition.kind), labels, moment, VALUE, varint(len(number)), number))
    return TAG + varint(len(body)) + body


def container_labels(reading: ContainerReading, pod: SandboxRecord) -> tuple[str, ...]:
    config = container_config(reading.record)
    image = config.image.user_specified_image or config.image.image
    return (config.metadata.name, reading.cgroup, image, reading.record.id, pod.namespace, pod.name)


@cache
def head(name: str, kind: api.MetricType.ValueType) -> bytes:
    """The fields of a ``Metric`` that all objects have in common; the names are those of ``DEFINITIONS``."""
    return api.Metric(name=name, metric_type=kind).SerializeToString()


@lru_cache(maxsize=4096)
def encode_labels(values: tuple[str, ...]) -> bytes:
    return api.Metric(label_values=values).SerializeToString()


def device_name(major: int, minor: int, sys_root: str = "/sys") -> str:
    try:
        with open(f"{sys_root}/dev/block/{major}:{minor}/uevent", encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").partition("=")[::2] for line in file)
    except OSError:
        fields = {}
    return f"/dev/{fields['DEVNAME']}" if "DEVNAME" in fields else f"{major}:{minor}"


def descriptors() -> list[api.MetricDescriptor]:
    return [api.MetricDescriptor(name=each.name, help=each.help, label_keys=each.label_keys) for each in DEFINITIONS]
