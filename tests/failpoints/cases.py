"""One case: an operation, a point in it, and what happens there; then all must be well again.

``run_case`` is the whole of it. ``test_every_step`` runs it for every point and action.

Invariant: after a case the daemon serves, has no pod, and the host has nothing of one.
"""

from __future__ import annotations

import itertools
import json
import signal
from dataclasses import dataclass
from typing import Any

import grpc

from proto import api_pb2 as api
from tests.failpoints.points import CREATE, RATES, REMOVE, REMOVE_POD, RUN, START, STOP, UPDATE, UPDATE_POD, Point
from tests.failpoints.serving import PATIENCE, Daemon, wait_for
from tests.failpoints.truth import check_nothing_remains, check_stopped, check_truth

FAIL, KILL, KILL_MONITORS, CANCEL = "fail", "kill", "kill-monitors", "cancel"
ACTIONS = (FAIL, KILL, KILL_MONITORS, CANCEL)


MIB = 1 << 20
OLD = api.LinuxContainerResources(
    cpu_shares=512, cpu_quota=90_000, cpu_period=100_000, memory_limit_in_bytes=256 * MIB, oom_score_adj=400
)
NEW = api.LinuxContainerResources(
    cpu_shares=300, cpu_quota=70_000, cpu_period=50_000, memory_limit_in_bytes=320 * MIB, oom_score_adj=500
)
OLD_POD, NEW_POD, OVERHEAD = (api.LinuxContainerResources(memory_limit_in_bytes=each * MIB) for each in (512, 640, 16))
IDS = [api.IDMapping(host_id=300_000, length=65536)]
MAPPED = api.NamespaceOption(pid=api.CONTAINER, userns_options=api.UserNamespace(uids=IDS, gids=IDS))
"""Then a container's init is born twice (``runtime.user_namespace``)."""
HOST_PORTS = itertools.cycle(range(20000, 20100))


@dataclass(slots=True)
class Pod:
    """What a case works with; the ids are those that were answered, or empty."""

    request: api.RunPodSandboxRequest
    sandbox: str = ""
    create: api.CreateContainerRequest | None = None
    container: str = ""


def prepare(daemon: Daemon, operation: str, *, begins_blank: bool = False, mapped: bool = False) -> Pod:
    """As much of a pod as has to be there before ``operation``; ``begins_blank``: without a port of the
    host, so that it may be a blank one's; ``mapped``: with a user namespace."""
    port = api.PortMapping(protocol=api.UDP, container_port=53, host_port=next(HOST_PORTS))
    pod = Pod(daemon.pod(port_mappings=[] if begins_blank else [port]))
    pod.request.config.linux.resources.CopyFrom(OLD_POD)
    pod.request.config.annotations.update(RATES)
    if mapped:
        pod.request.config.linux.security_context.namespace_options.CopyFrom(MAPPED)
    if operation == RUN:
        return pod
    pod.sandbox = daemon.run_pod(pod.request)
    pod.create = daemon.container(pod.sandbox, pod.request)
    pod.create.config.linux.resources.CopyFrom(OLD)
    image = pod.create.config.image
    pod.create.config.mounts.add(container_path="/image", image=image, image_sub_path="etc", readonly=True)
    if mapped:
        pod.create.config.linux.security_context.namespace_options.CopyFrom(MAPPED)
    if operation != CREATE:
        pod.container = daemon.runtime.CreateContainer(pod.create).container_id
    if operation not in (CREATE, START):
        daemon.runtime.StartContainer(api.StartContainerRequest(container_id=pod.container))
    return pod


def request_of(operation: str, pod: Pod) -> Any:
    return {
        RUN: pod.request,
        CREATE: pod.create,
        START: api.StartContainerRequest(container_id=pod.container),
        UPDATE: api.UpdateContainerResourcesRequest(container_id=pod.container, linux=NEW),
        UPDATE_POD: api.UpdatePodSandboxResourcesRequest(
            pod_sandbox_id=pod.sandbox, resources=NEW_POD, overhead=OVERHEAD
        ),
        STOP: api.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox),
        REMOVE_POD: api.RemovePodSandboxRequest(pod_sandbox_id=pod.sandbox),
        REMOVE: api.RemoveContainerRequest(container_id=pod.container),
    }[operation]


def run_case(daemon: Daemon, point: Point, action: str, *, begins_blank: bool = False, mapped: bool = False) -> None:
    pod = prepare(daemon, point.operation, begins_blank=begins_blank, mapped=mapped)
    request = request_of(point.operation, pod)
    passed, error = daemon.hits(point.name), None
    if point.trigger:
        daemon.arm(point.trigger, FAIL, 1)
    if action == CANCEL:
        cancel_at(daemon, point, request)
        if point.trigger:  # it is failing: who asks before it has ended joins it, and is told so
            wait_for(lambda: not is_in_flight(daemon, point.operation), f"{point.operation} to have failed")
    else:
        daemon.arm(point.name, action, 1)
        error = attempt(daemon, point.operation, request)
        if action == KILL:
            assert error, f"{point} was not passed: the daemon lives"
            assert daemon.reap() == -signal.SIGKILL
            daemon.start()
        else:
            assert daemon.hits(point.name) > passed, f"{point} was not passed"
            assert error or action == KILL_MONITORS, f"{point} failed, but {point.operation} succeeded"
    check_truth(daemon)
    if pod.container and point.operation == UPDATE:
        told = daemon.status(pod.container).resources.linux
        assert told == NEW if not error and action != CANCEL else told in (OLD, NEW), f"neither old nor new: {told}"
    answered = action == KILL_MONITORS and not error
    if not answered or point.operation in (STOP, REMOVE_POD, REMOVE):
        repeat(daemon, point.operation, request, monitors_died=action == KILL_MONITORS)
    check_truth(daemon)
    if point.operation == STOP:
        check_stopped(daemon)
    daemon.remove_pods()
    check_nothing_remains(daemon)


def attempt(daemon: Daemon, operation: str, request: Any) -> grpc.RpcError | None:
    try:
        getattr(daemon.runtime, operation)(request, timeout=PATIENCE)
    except grpc.RpcError as error:
        return error
    return None


def cancel_at(daemon: Daemon, point: Point, request: Any) -> None:
    """The client leaves while the operation waits at the point, and the operation goes on."""
    daemon.arm(point.name, "hang")
    call = getattr(daemon.runtime, point.operation).future(request)
    wait_for(lambda: call.done() or waiting_at(daemon, point), f"{point} to be passed")
    assert not call.done(), f"{point} was not passed"
    left = f"{point.operation} CANCELLED"
    before = daemon.log_mentions(left)
    call.cancel()
    # Or the operation would end first, and its answer be taken for delivered.
    wait_for(lambda: daemon.log_mentions(left) > before, f"the daemon to know that the client of {point} has left")
    daemon.arm(point.name, "off")


def is_in_flight(daemon: Daemon, operation: str) -> bool:
    info = daemon.runtime.Status(api.StatusRequest(verbose=True)).info["host"]
    return any(name.startswith(f"{operation} ") for name in json.loads(info)["tasks"])


def waiting_at(daemon: Daemon, point: Point) -> int:
    found = daemon.points().get(point.name)
    return found.waiting if found else 0


def repeat(daemon: Daemon, operation: str, request: Any, *, monitors_died: bool) -> None:
    """The identical request succeeds.

    With its monitor a pod dies: then what is asked of that pod is refused for that reason.
    """
    error = attempt(daemon, operation, request)
    refused = operation in (CREATE, START, UPDATE, UPDATE_POD)
    if error and not (monitors_died and refused and pods_are_dead(daemon)):
        raise AssertionError(f"the identical request is refused: {error.code()}: {error.details()}")


def pods_are_dead(daemon: Daemon) -> bool:
    return all(each.state == api.SANDBOX_NOTREADY for each in daemon.pods())
