"""ListMetricDescriptors and ListPodSandboxMetrics: what critest and kubelet expect of them."""

from __future__ import annotations

from proto import api_pb2 as api
from tests.cri.harness import Crisp

OPTIONAL = ("container_blkio_", "container_fs_reads", "container_fs_writes", "container_hugetlb", "container_pressure")
"""What depends on the kernel and on what the container did (critest excuses these too)."""
ONLY_WHEN_ASKED = {
    "container_spec_cpu_quota",
    "container_ulimits_soft",
    "container_spec_memory_reservation_limit_bytes",
}
PER_POD = {"container_cpu_usage_seconds_total", "container_memory_usage_bytes", "container_network_receive_bytes_total"}


async def by_name(crisp: Crisp, sandbox: str) -> tuple[dict[str, list[api.Metric]], dict[str, list[api.Metric]]]:
    """The metrics of the pod itself and of its one container."""
    answer = await crisp.runtime.ListPodSandboxMetrics(api.ListPodSandboxMetricsRequest())
    (pod,) = [each for each in answer.pod_metrics if each.pod_sandbox_id == sandbox]
    (container,) = pod.container_metrics
    tables: tuple[dict[str, list[api.Metric]], dict[str, list[api.Metric]]] = {}, {}
    for table, metrics in zip(tables, (pod.metrics, container.metrics), strict=True):
        for metric in metrics:
            table.setdefault(metric.name, []).append(metric)
    return tables


async def test_a_pod_has_every_metric_that_was_described_with_as_many_labels(crisp: Crisp) -> None:
    described = await crisp.runtime.ListMetricDescriptors(api.ListMetricDescriptorsRequest())
    keys = {each.name: list(each.label_keys) for each in described.descriptors}
    assert len(described.descriptors) == len(keys) == 56
    assert all(each.help and each.label_keys for each in described.descriptors)
    config = crisp.container("sh", "-c", "while :; do :; done")
    config.linux.resources.cpu_period, config.linux.resources.cpu_quota = 100_000, 20_000
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox, config)
    of_pod, of_container = await by_name(crisp, sandbox)
    for metrics in (*of_pod.values(), *of_container.values()):
        for metric in metrics:
            assert len(metric.label_values) == len(keys[metric.name]), metric.name
    missing = {name for name in keys if name not in of_pod and name not in of_container}
    assert {name for name in missing if not name.startswith(OPTIONAL)} <= ONLY_WHEN_ASKED
    assert set(of_pod) >= PER_POD
    labels = dict(zip(keys["container_memory_rss"], of_container["container_memory_rss"][0].label_values, strict=True))
    record = crisp.host.store.sandboxes.get(sandbox)
    assert (labels["container"], labels["pod"], labels["namespace"]) == ("main", record.name, "default")
    assert labels["name"] == id and labels["id"].endswith(id) and labels["image"]
    assert of_container["container_spec_memory_limit_bytes"][0].value.value == 64 << 20
    assert of_container["container_spec_cpu_quota"][0].value.value == 20_000
    assert of_container["container_processes"][0].value.value >= 1
    assert of_container["container_processes"][0].timestamp > 0, "it is measured in the background"
    assert of_container["container_threads"][0].timestamp == 0, "it is measured now"


async def test_each_interface_of_a_pod_has_its_own_metrics(crisp: Crisp) -> None:
    described = await crisp.runtime.ListMetricDescriptors(api.ListMetricDescriptorsRequest())
    keys = {each.name: list(each.label_keys) for each in described.descriptors}
    sandbox = await crisp.run_pod()
    crisp.add_interface(sandbox, "net1")
    await crisp.run(sandbox)
    of_pod, _ = await by_name(crisp, sandbox)
    counters = {name: metrics for name, metrics in of_pod.items() if name.startswith("container_network_")}
    assert len(counters) == 8
    for name, metrics in counters.items():
        shown = [metric.label_values[keys[name].index("interface")] for metric in metrics]
        assert sorted(shown) == ["eth0", "far", "net1"], name


async def test_values_follow_and_a_created_container_has_none(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    await crisp.create(sandbox, crisp.container(name="created"))
    await crisp.run(sandbox, crisp.container("sh", "-c", "while :; do :; done", name="busy"))
    _, first = await by_name(crisp, sandbox)
    usage = "container_memory_usage_bytes"
    assert first[usage][0].value.value > 0 and first["container_start_time_seconds"][0].value.value > 1_700_000_000
    _, second = await by_name(crisp, sandbox)
    assert second["container_last_seen"][0].value.value >= first["container_last_seen"][0].value.value


async def test_a_stopped_pod_has_no_metrics(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    answer = await crisp.runtime.ListPodSandboxMetrics(api.ListPodSandboxMetricsRequest())
    assert not answer.pod_metrics


async def test_the_stream_has_what_the_list_has(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    stream = crisp.runtime.StreamPodSandboxMetrics(api.StreamPodSandboxMetricsRequest())
    (item,) = [item async for answer in stream for item in answer.pod_sandbox_metrics]
    assert item.pod_sandbox_id == sandbox and item.metrics
