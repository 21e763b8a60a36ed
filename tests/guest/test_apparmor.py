"""AppArmor: crisp's own profile and those of the node decide, for commands too; none is ever left out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto import api_pb2 as api
from runtime.lsm.apparmor import PROFILES, is_loaded
from runtime.lsm.apparmor_profile import NAME
from tests.failpoints.serving import wait_for
from tests.guest.service import PATIENCE, Service

MINE = """
profile crisp-test-readonly flags=(attach_disconnected) {
  file,
  signal,
  deny /** w,
}
"""


def parser(text: str, option: str) -> None:
    subprocess.run(["apparmor_parser", option, "--skip-cache"], input=text.encode(), check=True)


@pytest.fixture(scope="module")
def mine() -> Iterator[str]:
    """A profile of the node's."""
    parser(MINE, "--replace")
    yield "crisp-test-readonly"
    parser(MINE, "--remove")


def made(crisp: Service, *command: str, privileged: bool = False, **context: Any) -> str:
    """The id of a container of a pod of its own that runs under ``context``."""
    pod = crisp.pod()
    if privileged:
        pod.config.linux.security_context.privileged = True
    sandbox = crisp.run_pod(pod)
    security = {"namespace_options": {"pid": api.CONTAINER}, "privileged": privileged, **context}
    return crisp.run(sandbox, pod, *(command or ("sleep", "1000")), linux={"security_context": security})


def label(crisp: Service, container: str) -> str:
    """That of the container's first process, and of a command in it."""
    first, command = (
        crisp.execute(container, "cat", f"/proc/{pid}/attr/current").stdout.decode().strip() for pid in ("1", "self")
    )
    assert first == command
    return first


def localhost(name: str) -> dict[str, Any]:
    return {"apparmor": {"profile_type": api.SecurityProfile.Localhost, "localhost_ref": name}}


def test_crisps_own_profile_is_loaded_and_is_for_who_asks_for_nothing(crisp: Service) -> None:
    wait_for(lambda: is_loaded(NAME), "the profile to be loaded", PATIENCE)
    assert f"{NAME} (enforce)\n" in Path(PROFILES).read_text()
    container = made(crisp)
    assert label(crisp, container) == f"{NAME} (enforce)"
    # What root could do in an unmasked /proc without it is refused, what programs need is not.
    said = crisp.execute(
        container,
        "sh",
        "-c",
        "echo x >/tmp/f && cat /etc/passwd >/dev/null && kill -0 1 && echo fine; "
        "echo 1 2>/dev/null >/proc/sys/vm/drop_caches || echo no sysctl; cat /proc/1/environ >/dev/null && echo reads",
    )
    assert said.stdout.decode().split("\n")[:-1] == ["fine", "no sysctl", "reads"]


def test_runtime_default_is_the_same_and_unconfined_is_none(crisp: Service) -> None:
    assert label(crisp, made(crisp, apparmor={})) == f"{NAME} (enforce)"
    unconfined = {"profile_type": api.SecurityProfile.Unconfined}
    assert label(crisp, made(crisp, apparmor=unconfined)) == "unconfined"
    assert label(crisp, made(crisp, privileged=True)) == "unconfined"


def test_without_the_profile_the_same_is_allowed(crisp: Service) -> None:
    """The weak variant: so it is AppArmor that refuses, to one that has all that the kernel asks for."""
    capabilities = {"add_capabilities": ["SYS_ADMIN"]}
    unconfined: Any = {"apparmor": {"profile_type": api.SecurityProfile.Unconfined}, "capabilities": capabilities}
    script = "mount -t tmpfs none /tmp && echo 1 >/proc/sys/vm/drop_caches && echo both || echo refused"
    for context, said in ((unconfined, b"both\n"), ({"capabilities": capabilities}, b"refused\n")):
        assert crisp.execute(made(crisp, **context), "sh", "-c", script).stdout == said


@pytest.mark.parametrize("deprecated", [False, True])
def test_a_profile_of_the_nodes_decides_for_container_and_commands(crisp: Service, mine: str, deprecated: bool) -> None:
    context = {"apparmor_profile": f"localhost/{mine}"} if deprecated else localhost(mine)
    container = made(crisp, **context)
    assert label(crisp, container) == f"{mine} (enforce)"
    assert crisp.execute(container, "touch", "/tmp/x").exit_code != 0
    assert crisp.execute(container, "cat", "/etc/passwd").exit_code == 0


def test_the_new_field_counts_before_the_superseded_one(crisp: Service, mine: str) -> None:
    named = localhost(f"localhost/{mine}")
    assert label(crisp, made(crisp, apparmor_profile="localhost/none", **named)) == f"{mine} (enforce)"


def test_a_profile_that_is_not_loaded_fails_the_creation(crisp: Service) -> None:
    for context in (localhost("crisp-test-none"), {"apparmor_profile": "localhost/crisp-test-none"}):
        with pytest.raises(grpc.RpcError) as refused:
            made(crisp, **context)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "no such AppArmor profile loaded" in str(refused.value.details())


def test_in_a_user_namespace_it_is_the_same(crisp: Service) -> None:
    ids = [api.IDMapping(host_id=400_000, length=65_536)]
    pod = crisp.pod()
    options = pod.config.linux.security_context.namespace_options
    options.userns_options.CopyFrom(api.UserNamespace(uids=ids, gids=ids))
    container = crisp.run(crisp.run_pod(pod), pod)
    assert crisp.execute(container, "cat", "/proc/self/uid_map").stdout.split() == [b"0", b"400000", b"65536"]
    assert label(crisp, container) == f"{NAME} (enforce)"


def test_a_pods_own_profile_is_that_of_pause(crisp: Service, mine: str) -> None:
    pod = crisp.pod()
    security = pod.config.linux.security_context
    security.apparmor.profile_type, security.apparmor.localhost_ref = api.SecurityProfile.Localhost, mine
    sandbox = crisp.run_pod(pod)
    found = [
        Path(f"/proc/{pid}/attr/current").read_text().strip()
        for pid in (path.name for path in Path("/proc").iterdir() if path.name.isdigit())
        if Path(f"/proc/{pid}/attr/current").exists() and Path(f"/proc/{pid}/comm").read_text() == "pause\n"
    ]
    assert f"{mine} (enforce)" in found
    crisp.remove_pod(sandbox)
    security.apparmor.localhost_ref = "crisp-test-none"
    with pytest.raises(grpc.RpcError) as refused:
        crisp.run_pod(pod)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
