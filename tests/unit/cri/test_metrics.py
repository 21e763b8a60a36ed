"""Metrics: what is counted appears under its names, ours and the peers'."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cri.metrics import Metrics


def values(metrics: Metrics) -> dict[str, float]:
    """``name{label=value,...}`` to value, of every sample."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_an_rpc_is_counted_by_code_and_timed() -> None:
    metrics = Metrics()
    metrics.operation("RunPodSandbox", "OK", 0.004)
    metrics.operation("RunPodSandbox", "ALREADY_EXISTS", 0.0001)
    found = values(metrics)
    assert found["crisp_operations_total{code=OK,rpc=RunPodSandbox}"] == 1
    assert found["crisp_operations_total{code=ALREADY_EXISTS,rpc=RunPodSandbox}"] == 1
    assert found["crisp_operation_duration_seconds_count{rpc=RunPodSandbox}"] == 2
    assert found["crisp_operation_duration_seconds_sum{rpc=RunPodSandbox}"] == pytest.approx(0.0041)


def test_dashboards_of_crio_and_containerd_find_their_names() -> None:
    metrics = Metrics()
    metrics.operation("StartContainer", "OK", 0.004)
    metrics.operation("StartContainer", "INTERNAL", 0.004)
    metrics.pulled(True, 100)
    found = values(metrics)
    assert found["container_runtime_crio_operations_total{operation=StartContainer}"] == 2
    assert found["container_runtime_crio_operations_errors_total{operation=StartContainer}"] == 1
    assert found["containerd_cri_container_start_seconds_count{runtime=crisp}"] == 1
    assert found["containerd_cri_sandboxed_image_pulls_total{status=success}"] == 1
    assert found["containerd_cri_sandboxed_image_pulls_total{status=failure}"] == 0


def test_stages_pulls_pool_and_version_have_their_metrics() -> None:
    metrics = Metrics("1.2.3")
    metrics.stage("run", "address", 0.0003)
    metrics.pulled(True, 100)
    metrics.pulled(False, 50)
    metrics.pool(4)
    metrics.log_dropped(3)
    found = values(metrics)
    assert found["crisp_log_entries_dropped_total{}"] == 3
    assert found["crisp_stage_duration_seconds_count{operation=run,stage=address}"] == 1
    assert found["crisp_stage_duration_seconds_bucket{le=0.0005,operation=run,stage=address}"] == 1
    assert found["crisp_stage_duration_seconds_bucket{le=0.00025,operation=run,stage=address}"] == 0
    assert found["crisp_image_pulls_total{result=failure}"] == 1
    assert found["crisp_image_pull_bytes_total{}"] == 150
    assert found["crisp_pool_items{}"] == 4
    assert found["crisp_build_info{version=1.2.3}"] == 1


def test_states_are_read_at_every_scrape() -> None:
    metrics, pods = Metrics(), {"ready": 1}
    metrics.watch(lambda: pods, lambda: {"running": 2, "exited": 0})
    assert values(metrics)["crisp_pods{state=ready}"] == 1
    pods["ready"] = 5
    found = values(metrics)
    assert found["crisp_pods{state=ready}"] == 5
    assert found["crisp_containers{state=running}"] == 2
    assert found["crisp_containers{state=exited}"] == 0


def test_what_pods_use_is_served_beside_the_rest() -> None:
    metrics = Metrics()
    metrics.watch(dict, dict, lambda: b"# TYPE crisp_pod_processes gauge\ncrisp_pod_processes 3\n")
    found = values(metrics)
    assert found["crisp_pod_processes{}"] == 3 and found["process_open_fds{}"] > 0


def test_a_leak_that_was_repaired_is_gone() -> None:
    metrics = Metrics()
    metrics.leaks({"cgroup": 2})
    assert values(metrics)["crisp_leaks{kind=cgroup}"] == 2
    metrics.leaks({"mount": 1})
    assert "crisp_leaks{kind=cgroup}" not in values(metrics)


def test_the_process_is_measured() -> None:
    assert values(Metrics())["process_open_fds{}"] > 0


def test_two_daemons_in_one_process_do_not_share() -> None:
    first, second = Metrics(), Metrics()
    first.operation("Version", "OK", 0.1)
    assert "crisp_operations_total{code=OK,rpc=Version}" not in values(second)
