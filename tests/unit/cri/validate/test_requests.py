"""The smaller requests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import text_format

from cri.plan.facts import HostFacts
from cri.validate import requests
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, Fault, InvalidArgument, NotFound


def test_a_negative_grace_period_is_refused() -> None:
    requests.validate_stop_container(api.StopContainerRequest(timeout=2**63 - 1))
    with pytest.raises(InvalidArgument, match="timeout: must not be negative"):
        requests.validate_stop_container(api.StopContainerRequest(timeout=-1))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (api.ExecSyncRequest(), "cmd: is empty"),
        (api.ExecSyncRequest(cmd=[""]), "cmd[0]: is empty"),
        (api.ExecSyncRequest(cmd=["a", "b\0"]), "cmd: has a NUL"),
        (api.ExecSyncRequest(cmd=["a"], timeout=-1), "timeout: must not be negative"),
    ],
)
def test_row_44_an_exec_needs_a_command(request_: api.ExecSyncRequest, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        requests.validate_exec_sync(request_)
    assert words in str(raised.value)


def test_a_command_with_empty_arguments_passes() -> None:
    requests.validate_exec_sync(api.ExecSyncRequest(cmd=["a", ""], timeout=5))
    requests.validate_exec(api.ExecRequest(cmd=["a", ""], stdin=True))


@pytest.mark.parametrize(
    ("streams", "words"),
    [
        ({}, "none is asked for"),
        ({"tty": True}, "none is asked for"),
        ({"tty": True, "stdout": True, "stderr": True}, "stderr: a terminal has no stderr of its own"),
        ({"stdin": True}, None),
        ({"stderr": True}, None),
        ({"tty": True, "stdin": True, "stdout": True}, None),
    ],
)
def test_row_43_a_session_has_a_stream_and_a_terminal_no_stderr(streams: dict[str, Any], words: str | None) -> None:
    for validate, request in (
        (requests.validate_exec, api.ExecRequest(cmd=["a"], **streams)),
        (requests.validate_attach, api.AttachRequest(**streams)),
    ):
        check: Callable[[Any], None] = validate
        with pytest.raises(InvalidArgument, match=words) if words else contextlib.nullcontext():
            check(request)


@pytest.mark.parametrize("port", [0, -1, 65536, 2**31 - 1])
def test_row_44_a_port_is_one_of_65535(port: int) -> None:
    requests.validate_port_forward(api.PortForwardRequest(port=[1, 65535]))
    requests.validate_port_forward(api.PortForwardRequest())
    with pytest.raises(InvalidArgument, match=r"port\[1\]: must be between 1 and 65535"):
        requests.validate_port_forward(api.PortForwardRequest(port=[80, port]))


@pytest.mark.parametrize(
    ("text", "fault", "words"),
    [
        ("", InvalidArgument, "linux: is missing"),
        ("linux { cpu_shares: -1 }", InvalidArgument, "linux.cpu_shares"),
        ("linux { cpuset_cpus: '9' }", FailedPrecondition, "has 9, the host has 0-3"),
        ("windows {}", FailedPrecondition, "Windows containers"),
        ("linux {} annotations { key: '%s' }" % ("k" * (1 << 21)), InvalidArgument, "annotations"),
    ],
)
def test_a_bad_update_is_refused(host: HostFacts, text: str, fault: type[Fault], words: str) -> None:
    request = text_format.Parse(text, api.UpdateContainerResourcesRequest())
    with pytest.raises(fault) as raised:
        requests.validate_update_container_resources(request, host)
    assert words in str(raised.value)


def test_an_update_may_change_the_swap_limit_alone(host: HostFacts) -> None:
    request = api.UpdateContainerResourcesRequest(linux=api.LinuxContainerResources(memory_swap_limit_in_bytes=9))
    requests.validate_update_container_resources(request, host)


@pytest.mark.parametrize(
    ("text", "fault", "words"),
    [
        ("", InvalidArgument, "image.image: is empty"),
        ("image { image: 'a' runtime_handler: 'x' }", NotFound, "no such runtime handler"),
        ("image { image: 'a' } auth { username: 'u' }", FailedPrecondition, "registry authentication"),
        ("image { image: 'a' } auth { registry_token: 't' }", FailedPrecondition, "registry authentication"),
    ],
)
def test_a_bad_pull_is_refused(text: str, fault: type[Fault], words: str) -> None:
    with pytest.raises(fault) as raised:
        requests.validate_pull_image(text_format.Parse(text, api.PullImageRequest()))
    assert words in str(raised.value)


def test_a_pull_without_credentials_passes() -> None:
    requests.validate_pull_image(api.PullImageRequest(image=api.ImageSpec(image="a"), auth=api.AuthConfig()))
    requests.validate_image(api.ImageSpec(image="a"))
    with pytest.raises(InvalidArgument):
        requests.validate_image(api.ImageSpec())


def runtime_config(cidr: str) -> api.UpdateRuntimeConfigRequest:
    network = api.NetworkConfig(pod_cidr=cidr)
    return api.UpdateRuntimeConfigRequest(runtime_config=api.RuntimeConfig(network_config=network))


@pytest.mark.parametrize(
    ("cidr", "networks"),
    [("", ()), ("10.1.0.0/24", ("10.1.0.0/24",)), ("10.1.0.0/24,fd00::/64", ("10.1.0.0/24", "fd00::/64"))],
)
def test_a_pod_cidr_is_one_network_of_each_family(cidr: str, networks: tuple[str, ...]) -> None:
    assert requests.validate_update_runtime_config(runtime_config(cidr)) == networks


@pytest.mark.parametrize("cidr", ["x", "10.1.0.1/24", "10.1.0.0/24,10.2.0.0/24", "10.0.0.0/99"])
def test_a_bad_pod_cidr_is_refused(cidr: str) -> None:
    with pytest.raises(InvalidArgument, match="pod_cidr"):
        requests.validate_update_runtime_config(runtime_config(cidr))
