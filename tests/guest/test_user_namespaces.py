"""Pods with a user namespace where cgroup v2 is all there is: what they see of it, and what is theirs to divide."""

from __future__ import annotations

from pathlib import Path

import pytest

from proto import api_pb2 as api
from runtime.cgroups.tree import DELEGATABLE
from runtime.lsm.apparmor_profile import NAME
from tests.guest.service import Service, cgroup_of

HOST = 500_000
MIB = 1 << 20


def mapped(crisp: Service, *, privileged: bool = False) -> api.RunPodSandboxRequest:
    request = crisp.pod()
    context = request.config.linux.security_context
    context.privileged = privileged
    for ids in (context.namespace_options.userns_options.uids, context.namespace_options.userns_options.gids):
        ids.add(host_id=HOST, length=65536)
    return request


def run(crisp: Service, *, privileged: bool = False) -> str:
    pod = mapped(crisp, privileged=privileged)
    request = crisp.container(crisp.run_pod(pod), pod)
    request.config.linux.security_context.privileged = privileged
    request.config.linux.resources.memory_limit_in_bytes = 96 * MIB
    id = str(crisp.runtime.CreateContainer(request).container_id)
    crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    return id


def say(crisp: Service, container: str, script: str) -> list[str]:
    done = crisp.execute(container, "sh", "-c", script)
    assert done.exit_code == 0, done.stderr
    return done.stdout.decode().split()


def test_it_sees_its_own_cgroup_and_cannot_change_it(crisp: Service) -> None:
    container = run(crisp)
    script = """
        cat /proc/self/uid_map; cat /proc/1/cgroup /sys/fs/cgroup/memory.max
        mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused
    """
    assert say(crisp, container, script) == ["0", str(HOST), "65536", "0::/", str(96 * MIB), "refused"]
    assert cgroup_of(container).stat().st_uid == 0


def test_a_privileged_root_may_divide_its_cgroup_and_not_change_its_limits(crisp: Service) -> None:
    container = run(crisp, privileged=True)
    script = """
        stat -c %u /sys/fs/cgroup /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory.max
        mkdir /sys/fs/cgroup/inner && echo 1 >/sys/fs/cgroup/inner/cgroup.procs && cat /proc/1/cgroup
        echo max 2>/dev/null | tee /sys/fs/cgroup/memory.max >/dev/null 2>&1 || echo refused
    """
    assert say(crisp, container, script) == ["0", "0", "65534", "0::/inner", "refused"]
    folder = cgroup_of(container)
    assert [(folder / name).stat().st_uid for name in ("", "cgroup.subtree_control", "inner")] == [HOST] * 3
    listed = {name for name in Path(DELEGATABLE).read_text().split() if (folder / name).exists()}
    owned = {path.name for path in folder.iterdir() if path.is_file() and path.stat().st_uid == HOST}
    assert owned == listed and "memory.max" not in owned


def test_it_runs_under_crisps_profile_as_its_commands_do(crisp: Service) -> None:
    """The profile is chosen before the user namespace is entered, by a process that is born once more after that."""
    pod = mapped(crisp)
    pod.config.linux.security_context.apparmor.profile_type = api.SecurityProfile.RuntimeDefault
    request = crisp.container(crisp.run_pod(pod), pod)
    request.config.linux.security_context.apparmor.profile_type = api.SecurityProfile.RuntimeDefault
    id = str(crisp.runtime.CreateContainer(request).container_id)
    crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    for process in ("1", "self"):
        assert say(crisp, id, f"cat /proc/{process}/attr/current") == [NAME, "(enforce)"]


@pytest.mark.parametrize("privileged", [False, True])
def test_its_pod_goes_with_all_its_cgroups(crisp: Service, privileged: bool) -> None:
    container = run(crisp, privileged=privileged)
    folder = cgroup_of(container)
    crisp.remove_pods()
    assert not folder.exists()
