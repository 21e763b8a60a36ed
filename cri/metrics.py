"""What crisp counts, in a Prometheus registry of its own.

``cri.interceptor`` and the step executor feed it, ``cri.metrics_http`` serves it.
Numbers that exist elsewhere (pods, containers, leaks) are read when somebody asks, and
what pods use is appended (``cri.usage_metrics``). Where a widely used name of containerd
or CRI-O means exactly the same, it is served as well.

Invariant: nothing on the path of a request costs more than a few counters; label
values of the registry come from fixed sets, never from a request.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

RPC_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
STAGE_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0)
GO_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Those of containerd's timers."""

CONTAINERD_TIMERS: Mapping[str, str] = {
    "CreateContainer": "containerd_cri_container_create_seconds",
    "StartContainer": "containerd_cri_container_start_seconds",
    "StopContainer": "containerd_cri_container_stop_seconds",
    "RemoveContainer": "containerd_cri_container_remove_seconds",
    "RemovePodSandbox": "containerd_cri_sandbox_remove_seconds",
}
"""Its timers that span a whole RPC, of successful ones only."""

Count = Callable[[], Mapping[str, int]]


class Metrics:
    """One daemon's metrics; times in seconds, sizes in bytes."""

    def __init__(self, version: str = "") -> None:
        self.registry = CollectorRegistry()
        self._operations = Counter(
            "crisp_operations", "RPCs answered, by method and status code.", ["rpc", "code"], registry=self.registry
        )
        self._durations = Histogram(
            "crisp_operation_duration_seconds",
            "How long RPCs took.",
            ["rpc"],
            buckets=RPC_BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "crisp_stage_duration_seconds",
            "How long the stages of operations took.",
            ["operation", "stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        count = functools.partial(Counter, registry=self.registry)
        self._pulls = count("crisp_image_pulls", "Image pulls, by result.", ["result"])
        self._pull_bytes = count("crisp_image_pull_bytes", "Bytes of blobs pulled.")
        self._events_dropped = count("crisp_events_dropped", "Events that a subscriber was too slow for.")
        self._log_dropped = count("crisp_log_entries_dropped", "Entries of containers' logs that the disk refused.")
        self._pool = Gauge("crisp_pool_items", "Pods prepared and not yet taken.", registry=self.registry)
        self._leaks = Gauge(
            "crisp_leaks", "Objects on the host that belong to no record, by kind.", ["kind"], registry=self.registry
        )
        Gauge("crisp_build_info", "Constant 1.", ["version"], registry=self.registry).labels(version).set(1)
        self._timers = {
            rpc: Histogram(name, f"As containerd: {rpc}.", ["runtime"], buckets=GO_BUCKETS, registry=self.registry)
            for rpc, name in CONTAINERD_TIMERS.items()
        }
        # Finding these by their labels takes longer than counting.
        self._of_operations: dict[tuple[str, str], tuple[Counter, list[Histogram]]] = {}
        self._of_stages: dict[tuple[str, str], Histogram] = {}
        self._states: dict[str, Count] = {}
        self._usage: Callable[[], bytes] = bytes
        self.registry.register(States(self._states))
        self.registry.register(Aliases(self._operations, self._pulls))
        ProcessCollector(registry=self.registry)
        for result in ("success", "failure"):
            self._pulls.labels(result)

    def operation(self, rpc: str, code: str, seconds: float) -> None:
        """One RPC was answered; ``code`` is the name of its gRPC status."""
        children = self._of_operations.get((rpc, code))
        if children is None:
            timers = [self._timers[rpc].labels("crisp")] if code == "OK" and rpc in self._timers else []
            children = self._operations.labels(rpc, code), [self._durations.labels(rpc), *timers]
            self._of_operations[rpc, code] = children
        count, durations = children
        count.inc()
        for each in durations:
            each.observe(seconds)

    def stage(self, operation: str, stage: str, seconds: float) -> None:
        child = self._of_stages.get((operation, stage))
        if child is None:
            child = self._of_stages[operation, stage] = self._stages.labels(operation, stage)
        child.observe(seconds)

    def pulled(self, success: bool, size: int) -> None:
        """An image pull ended after ``size`` bytes of blobs."""
        self._pulls.labels("success" if success else "failure").inc()
        self._pull_bytes.inc(size)

    def event_dropped(self) -> None:
        """A subscriber of the container events did not get one."""
        self._events_dropped.inc()

    def log_dropped(self, entries: int) -> None:
        """So many more entries of a container's log are lost."""
        self._log_dropped.inc(entries)

    def pool(self, items: int) -> None:
        self._pool.set(items)

    def leaks(self, found: Mapping[str, int]) -> None:
        """What the last sweep found, by kind; a kind that is not named is at 0 again."""
        self._leaks.clear()
        for kind, count in found.items():
            self._leaks.labels(kind).set(count)

    def watch(self, pods: Count, containers: Count, usage: Callable[[], bytes] = bytes) -> None:
        """Where the numbers by state, and what pods use, in text, are read from, at every scrape."""
        self._states.update(pods=pods, containers=containers)
        self._usage = usage

    def render(self) -> bytes:
        """The text form that Prometheus scrapes."""
        return generate_latest(self.registry) + self._usage()


class States(Collector):
    """``crisp_pods{state}`` and ``crisp_containers{state}``."""

    def __init__(self, counts: Mapping[str, Count]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        for noun, count in self._counts.items():
            family = GaugeMetricFamily(f"crisp_{noun}", f"How many {noun} there are, by state.", labels=["state"])
            for state, number in count().items():
                family.add_metric([state], number)
            yield family


class Aliases(Collector):
    """The same counts under the names that dashboards for containerd and CRI-O use."""

    def __init__(self, operations: Counter, pulls: Counter) -> None:
        self._operations = operations
        self._pulls = pulls

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._crio()
        pulls = CounterMetricFamily("containerd_cri_sandboxed_image_pulls", "As containerd.", labels=["status"])
        for labels, value in samples(self._pulls):
            pulls.add_metric([labels["result"]], value)
        yield pulls

    def _crio(self) -> Iterator[Metric]:
        totals: dict[str, float] = {}
        errors: dict[str, float] = {}
        for labels, value in samples(self._operations):
            totals[labels["rpc"]] = totals.get(labels["rpc"], 0.0) + value
            if labels["code"] != "OK":
                errors[labels["rpc"]] = errors.get(labels["rpc"], 0.0) + value
        for name, counts in (("operations", totals), ("operations_errors", errors)):
            family = CounterMetricFamily(f"container_runtime_crio_{name}", "As CRI-O.", labels=["operation"])
            for rpc, value in counts.items():
                family.add_metric([rpc], value)
            yield family


def samples(counter: Counter) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of each child of ``counter``."""
    for metric in counter.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                yield sample.labels, sample.value
