"""What the parts of a daemon share: descriptors, locks, waits, and how they are forgotten."""

from __future__ import annotations

import asyncio
import os

import pytest

from cri.host import Attached, LivePod, Started
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.streaming.session import ForwardTicket, Ticket
from proto import api_pb2 as api
from runtime.errors import Unavailable
from runtime.steps import Stage
from tests.cri.harness import Crisp

ID = "c" * 64


async def test_a_pods_descriptors_are_closed_once(crisp: Crisp) -> None:
    monitor = crisp.host.pods[await crisp.run_pod()].monitor
    read, write = os.pipe()
    pod = LivePod(monitor, {"network": read}, netlink=write)
    pod.close_descriptors()
    assert pod.namespaces == {} and pod.netlink == -1
    for fd in (read, write):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    again, other = os.pipe()  # the same numbers
    pod.close_descriptors()
    for fd in (again, other):
        os.fstat(fd)
        os.close(fd)


async def test_a_descriptor_that_is_closed_already_keeps_no_other_open(crisp: Crisp) -> None:
    monitor = crisp.host.pods[await crisp.run_pod()].monitor
    read, write = os.pipe()
    os.close(read)
    LivePod(monitor, {"network": read}, netlink=write).close_descriptors()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write)


async def test_a_ready_pod_holds_no_descriptor_of_its_namespaces(crisp: Crisp) -> None:
    pod = crisp.host.pods[await crisp.run_pod()]
    assert pod.namespaces == {} and pod.netlink == -1 and pod.pause_pid > 0 and len(pod.addresses) == 1


async def test_directories_are_named_by_the_id(crisp: Crisp) -> None:
    assert crisp.host.pod_directory(ID) == f"{crisp.host.state}/pods/{ID}"
    assert crisp.host.container_directory(ID) == f"{crisp.host.root}/containers/{ID}"


async def test_waits_and_locks_are_one_an_id_until_it_is_forgotten(crisp: Crisp) -> None:
    exited, lock = crisp.host.exited(ID), crisp.host.lock(ID)
    assert crisp.host.exited(ID) is exited and crisp.host.lock(ID) is lock
    assert crisp.host.exited("d" * 64) is not exited and crisp.host.lock("d" * 64) is not lock
    crisp.host.forget("d" * 64)
    crisp.host.started[ID] = Started(1, 2)
    exited.set()
    crisp.host.forget(ID)
    assert not crisp.host.exited(ID).is_set() and crisp.host.lock(ID) is not lock and ID not in crisp.host.started
    crisp.host.forget(ID)


async def test_execs_have_different_numbers(crisp: Crisp) -> None:
    first = crisp.host.next_exec()
    assert crisp.host.next_exec() == first + 1


async def test_stages_go_to_the_record_and_to_the_metrics(crisp: Crisp) -> None:
    stages: list[Stage] = []
    run = crisp.host.execution("RunPodSandbox", stages)
    stage = Stage("of_this_test", "do it", 0, 2_000_000_000)
    run.record(stage)
    labels = {"operation": "RunPodSandbox", "stage": "of_this_test"}
    total = crisp.host.metrics.registry.get_sample_value("crisp_stage_duration_seconds_sum", labels)
    assert stages == [stage] and total == 2.0
    assert run.host is crisp.host and run.failpoints is crisp.host.failpoints


async def test_nothing_refers_to_a_removed_pod_or_container(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    await crisp.runtime.ListContainerStats(api.ListContainerStatsRequest())
    await crisp.runtime.ListContainers(api.ListContainersRequest())
    await crisp.runtime.ListPodSandbox(api.ListPodSandboxRequest())
    cgroup = decode(crisp.host.store.containers.get(id).plan, ContainerPlan).cgroup
    crisp.host.exited(id)
    await crisp.remove_all()
    host = crisp.host
    for table in (host.pods, host.started, host._exits, host._locks):
        assert sandbox not in table and id not in table
    assert cgroup not in host.readings._samples and not {id, sandbox} & set(host.readings._places)


async def test_a_session_is_offered_by_the_streaming_server_once_it_runs(crisp: Crisp) -> None:
    async def serve(_: object) -> None: ...

    class Offers:
        def offer(self, ticket: Ticket) -> str:
            return f"http://127.0.0.1/{len(ticket.ports)}" if isinstance(ticket, ForwardTicket) else ""

    ticket = ForwardTicket(frozenset({80}), serve)
    crisp.host.offers = None
    with pytest.raises(Unavailable, match="the streaming server does not run"):
        crisp.host.offer(ticket)
    crisp.host.offers = Offers()
    assert crisp.host.offer(ticket) == "http://127.0.0.1/1"


async def test_sessions_of_a_pod_whose_monitor_has_gone_end_with_a_reason(crisp: Crisp) -> None:
    loop, pod = asyncio.get_running_loop(), LivePod(crisp.host.pods[await crisp.run_pod()].monitor)
    over, runs, attached = loop.create_future(), loop.create_future(), Attached("c", loop.create_future())
    over.set_result((3, False))
    pod.execs.update(over=over, runs=runs)
    pod.attached["one"] = attached
    pod.end_sessions("the pod was stopped")
    pod.end_sessions("again")
    assert over.result() == (3, False)
    for ended in (runs, attached.ended):
        with pytest.raises(Unavailable, match="the pod was stopped"):
            await ended
