"""Pods with bandwidth annotations: measured on real sockets, refused in words, and gone without a trace."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import pytest

from cri.fsck import fsck
from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from cri.steps.bandwidth import LimitBandwidth
from cri.steps.sandbox import plan_steps
from network import traffic_control
from network.bandwidth import EGRESS, INGRESS, Bandwidth
from network.names import egress_link_name, host_link_name
from network.netlink import Message, NetlinkSocket, text
from network.provider import OrphanKind
from proto import api_pb2 as api
from tests.cri.harness import Crisp
from tests.rates import LACKING, PATIENCE, measure

needs_limits = pytest.mark.skipif(bool(LACKING), reason=LACKING)

TEN = {INGRESS: "10M", EGRESS: "10M"}


def links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


async def connect(crisp: Crisp, pod: str) -> tuple[socket.socket, socket.socket]:
    """A connection from the node to the pod: the node's end, and the pod's."""
    listener = await crisp.host.sockets.open(socket.AF_INET, f"{crisp.host.pod_directory(pod)}/ns/network")
    with listener:
        listener.settimeout(PATIENCE)
        listener.bind(("", 0))
        listener.listen()
        address = crisp.host.store.sandboxes.get(pod).addresses[0]
        near = socket.create_connection((address, listener.getsockname()[1]), PATIENCE)
        far, _ = listener.accept()
    near.setblocking(True)
    far.setblocking(True)
    return near, far


@needs_limits
@pytest.mark.parametrize("annotation", [INGRESS, EGRESS])
async def test_a_pod_keeps_to_the_ten_mbit_a_second_of_its_annotation(crisp: Crisp, annotation: str) -> None:
    """Within 20 %. What it does in the other direction is not limited."""
    pod = await crisp.run_pod(crisp.pod(annotations={annotation: "10M"}))
    near, far = await connect(crisp, pod)
    receives = await asyncio.to_thread(measure, near, far, 8 if annotation == INGRESS else 60)
    near, far = await connect(crisp, pod)
    sends = await asyncio.to_thread(measure, far, near, 8 if annotation == EGRESS else 60)
    limited, other = (receives, sends) if annotation == INGRESS else (sends, receives)
    assert 8 <= limited <= 12 and other >= 60


@needs_limits
async def test_a_pod_that_began_blank_is_limited_as_any_other(crisp: Crisp) -> None:
    blank = await crisp.host.pool._make()
    crisp.host.pool._items.append(blank)
    pod = await crisp.run_pod(crisp.pod(annotations=TEN))
    assert pod == blank and egress_link_name(pod) in links()
    stages = [stage.describe for stage in crisp.host.store.sandboxes.get(pod).stages]
    assert "limit the pod's bandwidth: it receives 10000000 bit/s and sends 10000000 bit/s at most" in stages


@needs_limits
async def test_what_limits_a_pod_goes_when_it_stops(crisp: Crisp) -> None:
    pod = await crisp.run_pod(crisp.pod(annotations=TEN))
    assert {host_link_name(pod), egress_link_name(pod)} <= links()
    assert await fsck(crisp.host, repair=False) == []
    for _ in range(2):
        await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod))
        assert egress_link_name(pod) not in links()
    await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))
    await crisp.until(lambda: host_link_name(pod) not in links())


@needs_limits
@pytest.mark.parametrize("annotations", [{INGRESS: "1k"}, {EGRESS: "1P"}, TEN], ids=str)
async def test_every_undo_is_idempotent_applied_or_not(crisp: Crisp, annotations: dict[str, str]) -> None:
    pod = await crisp.run_pod(crisp.pod(annotations=annotations))
    plan = decode(crisp.host.store.sandboxes.get(pod).plan, SandboxPlan)
    (step,) = [step for step in plan_steps(plan) if isinstance(step, LimitBandwidth)]
    assert step.bandwidth == plan.bandwidth
    for _ in range(2):
        await step.apply(crisp.host)
        assert (egress_link_name(pod) in links()) == (EGRESS in annotations)
    for _ in range(2):
        await step.undo(crisp.host)
        assert egress_link_name(pod) not in links()


@needs_limits
async def test_fsck_finds_an_ifb_link_that_belongs_to_nobody_and_removes_it(crisp: Crisp) -> None:
    id = "ab" * 32
    made = await crisp.host.pool._make()
    await crisp.host.bridge.limit(made, Bandwidth(egress=1000))
    alias = f"crisp:{crisp.host.instance}:{id}"
    for command in (
        ["link", "set", egress_link_name(made), "down"],
        ["link", "set", egress_link_name(made), "name", egress_link_name(id), "alias", alias],
    ):
        process = await asyncio.create_subprocess_exec("ip", *command)
        assert await process.wait() == 0
    await crisp.host.pool.drop(made)
    try:
        (found,) = [each for each in await fsck(crisp.host, repair=False) if each.object == egress_link_name(id)]
        assert (found.kind, found.message) == (OrphanKind.LINK.value, "belongs to no pod")
    finally:
        repaired = await fsck(crisp.host, repair=True)
    assert all(each.repaired for each in repaired) and egress_link_name(id) not in links()


@pytest.mark.parametrize("value", ["", "10MB", "-1M", "999", "1001T", "10M\n"])
@pytest.mark.parametrize("annotation", [INGRESS, EGRESS])
async def test_a_bandwidth_that_is_none_is_refused_before_anything_is_done(
    crisp: Crisp, annotation: str, value: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=annotation) as refused:
        await crisp.run_pod(crisp.pod(annotations={annotation: value}))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not os.listdir(crisp.host.state / "pods") and not crisp.host.operations.unfinished()


async def test_a_pod_in_the_nodes_network_cannot_be_limited(crisp: Crisp) -> None:
    config = crisp.pod(annotations=TEN)
    config.linux.security_context.namespace_options.network = api.NODE
    with pytest.raises(grpc.aio.AioRpcError, match="node's network has no link to limit") as refused:
        await crisp.run_pod(config)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(("kind", "module"), [("ifb", "ifb"), ("tbf", "sch_tbf"), ("mirred", "cls_u32 or act_mirred")])
async def test_a_kernel_that_lacks_a_module_is_a_precondition_that_names_it(
    crisp: Crisp, kind: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if LACKING:
        pytest.skip(LACKING)
    config = crisp.pod(annotations=TEN)
    with monkeypatch.context() as patch:
        misspelt = lambda number, value: text(number, "crispnone" if value == kind else value)  # noqa: E731
        patch.setattr(traffic_control, "text", misspelt)
        with pytest.raises(grpc.aio.AioRpcError, match=f"this kernel has no {module}, a module") as refused:
            await crisp.run_pod(config)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert not [name for name in links() if name.startswith("cre")] and await fsck(crisp.host, repair=False) == []
    await crisp.run_pod(config)


PLAIN = [
    *("RTM_NEWLINK", "RTM_NEWLINK"),  # the pair; its end here
    *("RTM_GETLINK", "RTM_SETLINK", "RTM_SETLINK", "RTM_NEWADDR", "RTM_NEWROUTE"),  # inside
]
"""All that the kernel is told of links, addresses and routes in the life of a pod."""


async def test_a_pod_that_asks_for_no_rate_costs_no_message_more(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    await crisp.host.bridge.prepare()
    sent: list[Message] = []
    plain = NetlinkSocket._send

    def counted(self: NetlinkSocket, messages: Sequence[Message], step: str) -> Any:
        sent.extend(message for message in messages if message.call.startswith("RTM_"))
        return plain(self, messages, step)

    monkeypatch.setattr(NetlinkSocket, "_send", counted)
    pod = await crisp.run_pod(crisp.pod(annotations={"kubernetes.io/bandwidth": "10M"}))
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod))
    await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))
    # Pods of before are looked for once more a second after their end, and so is this one.
    ours = [each for each in sent if not each.object.startswith("cr") or pod[:12] in each.object]
    assert [each.call for each in ours][: len(PLAIN)] == PLAIN
    assert {each.call for each in ours[len(PLAIN) :]} <= {"RTM_GETLINK"}


async def test_the_status_of_a_limited_pod_tells_its_rates(crisp: Crisp) -> None:
    if LACKING:
        pytest.skip(LACKING)
    pod = await crisp.run_pod(crisp.pod(annotations=TEN))
    request = api.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
    answer = await crisp.runtime.PodSandboxStatus(request)
    assert dict(answer.status.annotations) == TEN
    assert json.loads(answer.info["info"])["plan"]["bandwidth"] == {"ingress": 10_000_000, "egress": 10_000_000}
