"""SELinux contexts: whole ones for what is asked, none where nothing is or nobody enforces them."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from cri.plan.selinux import NO_LABELS, Labels, label_mounts, plan_labels
from proto import api_pb2 as api
from runtime.spec import Mount

FULL = "selinux_options { user: 'u' role: 'r' type: 't' level: 's0:c1,c2' }"


def labels(text: str, *, enforcing: bool = True) -> Labels:
    return plan_labels(text_format.Parse(text, api.LinuxContainerSecurityContext()), enforcing=enforcing)


@pytest.mark.parametrize(
    ("text", "process", "mount"),
    [
        (FULL, "u:r:t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2"),
        (
            "selinux_options { level: 's0:c5' }",
            "system_u:system_r:container_t:s0:c5",
            "system_u:object_r:container_file_t:s0:c5",
        ),
        (
            "selinux_options { type: 'spc_t' }",
            "system_u:system_r:spc_t:s0",
            "system_u:object_r:container_file_t:s0",
        ),
    ],
)
def test_what_is_missing_is_the_policys_for_containers(text: str, process: str, mount: str) -> None:
    assert labels(text) == (process, mount)
    pod = text_format.Parse(text, api.LinuxSandboxSecurityContext())
    assert plan_labels(pod, enforcing=True) == (process, mount)


@pytest.mark.parametrize("text", ["", "selinux_options {}", f"privileged: true {FULL}"])
def test_who_asks_for_nothing_and_who_is_privileged_has_none(text: str) -> None:
    assert labels(text) == NO_LABELS


def test_where_nobody_enforces_them_there_are_none() -> None:
    assert labels(FULL, enforcing=False) == NO_LABELS


def test_file_systems_of_the_containers_own_have_the_context() -> None:
    kinds = ("tmpfs", "devpts", "proc", "mqueue", "bind")
    mounts = [Mount(destination=f"/{kind}", type=kind, source=kind, options=["nosuid"]) for kind in kinds]
    labeled = label_mounts(mounts, "u:object_r:t:s0:c1,c2")
    assert [mount["options"][1:] for mount in labeled] == [["context=u:object_r:t:s0:c1,c2"]] * 2 + [[]] * 3
    assert label_mounts(mounts, "") == mounts
