"""The smaller requests: stop, exec, update, image and runtime RPCs.

What depends on an object's state is in ``cri.state.permitted``, what on its id in
``cri.state.index``; what a reference may be is in ``runtime.images.reference``.

Invariant: no side effect; one function a request, named after it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from cri.plan.facts import HostFacts
from cri.validate.container import check_image
from cri.validate.process import check_words
from cri.validate.resources import check_update
from cri.validate.text import check_map, check_range, not_yet, refuse, show
from proto import api_pb2 as api


def validate_stop_container(request: api.StopContainerRequest) -> None:
    """Raises InvalidArgument."""
    if request.timeout < 0:
        raise refuse("timeout", f"must not be negative: {request.timeout}")


def validate_exec_sync(request: api.ExecSyncRequest) -> None:
    """Raises InvalidArgument."""
    _check_command(request.cmd)
    if request.timeout < 0:
        raise refuse("timeout", f"must not be negative: {request.timeout}")


def validate_exec(request: api.ExecRequest) -> None:
    """Raises InvalidArgument."""
    _check_command(request.cmd)
    _check_streams(request)


def validate_attach(request: api.AttachRequest) -> None:
    """Raises InvalidArgument."""
    _check_streams(request)


def validate_port_forward(request: api.PortForwardRequest) -> None:
    """Raises InvalidArgument."""
    for index, port in enumerate(request.port):
        check_range(port, f"port[{index}]", 1, 65535)


def _check_command(cmd: Sequence[str]) -> None:
    if not cmd:
        raise refuse("cmd", "is empty")
    if not cmd[0]:
        raise refuse("cmd[0]", "is empty")
    check_words(cmd, "cmd")


def _check_streams(request: api.ExecRequest | api.AttachRequest) -> None:
    if request.tty and request.stderr:
        raise refuse("stderr", "a terminal has no stderr of its own")
    if not (request.stdin or request.stdout or request.stderr):
        raise refuse("stdin, stdout, stderr", "none is asked for")


def validate_update_container_resources(request: api.UpdateContainerResourcesRequest, host: HostFacts) -> None:
    """
    Raises:
        InvalidArgument: a value that can never be right, or nothing to update.
        FailedPrecondition: a CPU or memory node that the host does not have.
    """
    if request.HasField("windows"):
        raise not_yet("windows", "Windows containers")
    if not request.HasField("linux"):
        raise refuse("linux", "is missing")
    check_update(request.linux, host, "linux")
    check_map(request.annotations, "annotations")


def validate_update_pod_sandbox_resources(request: api.UpdatePodSandboxResourcesRequest, host: HostFacts) -> None:
    """Raises as ``validate_update_container_resources``."""
    if not (request.HasField("resources") or request.HasField("overhead")):
        raise refuse("resources", "is missing, and overhead too")
    check_update(request.resources, host, "resources")
    check_update(request.overhead, host, "overhead")


def validate_pull_image(request: api.PullImageRequest) -> None:
    """
    Raises:
        InvalidArgument: no image is named.
        NotFound: no such runtime handler.
        FailedPrecondition: credentials, until crisp can use them.
    """
    check_image(request.image, "image")
    auth = request.auth
    if auth.username or auth.password or auth.auth or auth.identity_token or auth.registry_token:
        raise not_yet("auth", "registry authentication")


def validate_image(image: api.ImageSpec) -> None:
    """ImageStatus and RemoveImage; raises as ``validate_pull_image`` without credentials."""
    check_image(image, "image")


def validate_update_runtime_config(request: api.UpdateRuntimeConfigRequest) -> tuple[str, ...]:
    """The networks of the PodCIDR, at most one of each family; none when it is empty.

    Raises:
        InvalidArgument: it is no list of networks.
    """
    where = "runtime_config.network_config.pod_cidr"
    given = request.runtime_config.network_config.pod_cidr
    networks = []
    for part in filter(None, given.split(",")):
        try:
            networks.append(ipaddress.ip_network(part.strip()))
        except ValueError as error:
            raise refuse(where, f"is no network: {show(part)}") from error
    versions = [network.version for network in networks]
    if len(set(versions)) != len(versions):
        raise refuse(where, f"has two networks of one family: {show(given)}")
    return tuple(map(str, networks))
