"""The unit ``deploy/crisp.service`` under systemd: started, stopped, killed, restarted while pods run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from proto import api_pb2 as api
from runtime.cgroups.layout import Kind, detect
from tests.failpoints.serving import wait_for
from tests.guest.service import CGROUPS, PATIENCE, Service, cgroup_of, processes, systemctl

UNIT = CGROUPS / "system.slice/crisp.service"


def test_the_machine_is_what_these_tests_are_for() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    found = detect()
    assert found.kind is Kind.V2 and found.v2 == str(CGROUPS)
    assert found.v2_controllers >= {"cpu", "cpuset", "io", "memory", "pids", "hugetlb"}
    assert Path("/sys/module/apparmor/parameters/enabled").read_text() == "Y\n"
    assert Path("/sys/kernel/security/apparmor/profiles").exists() and shutil.which("apparmor_parser")
    assert Path("/proc/pressure/memory").exists()


def test_the_service_is_ready_and_its_check_has_nothing_to_say(crisp: Service) -> None:
    shown = systemctl("show", "--property=Type,Delegate,KillMode,ActiveState", "crisp")
    assert set(shown.split()) == {"Type=notify", "Delegate=yes", "KillMode=process", "ActiveState=active"}
    check = subprocess.run(["crisp", "check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    status = crisp.runtime.Status(api.StatusRequest()).status
    assert {each.type: each.status for each in status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert crisp.main_pid in processes(UNIT)


def test_stopping_the_service_leaves_pods_and_their_logs_alone(crisp: Service) -> None:
    script = "while [ ! -e /stop ]; do usleep 100000; done; echo last words; exit 7"
    container = crisp.start_container("sh", "-c", script)
    folder = cgroup_of(container)
    before = processes(folder)
    crisp.stop()
    assert crisp.state_of_unit == "inactive"
    assert set(processes(folder)) >= set(before[:1]) and processes(UNIT)  # the monitors stay in the unit's
    root = Path(f"/proc/{before[0]}/root")
    (root / "stop").touch()
    wait_for(lambda: not folder.exists() or not processes(folder), "the container's end without a daemon", PATIENCE)
    crisp.start()
    assert crisp.wait_exit(container).exit_code == 7
    assert "last words" in crisp.log(container)


def test_a_killed_daemon_is_started_again_and_finds_its_pods(crisp: Service) -> None:
    container = crisp.start_container()
    before = processes(cgroup_of(container))
    restarts = int(systemctl("show", "--property=NRestarts", "--value", "crisp"))
    crisp.kill()
    crisp.connect()
    assert int(systemctl("show", "--property=NRestarts", "--value", "crisp")) == restarts + 1
    assert crisp.status(container).state == api.CONTAINER_RUNNING
    assert processes(cgroup_of(container)) == before
    assert crisp.execute(container, "echo", "hello").stdout == b"hello\n"


def test_a_restart_finds_pods_and_a_reload_of_systemd_takes_nothing_from_them(crisp: Service) -> None:
    container = crisp.start_container(memory_limit_in_bytes=64 << 20)
    systemctl("daemon-reload")
    crisp.restart()
    crisp.update(container, memory_limit_in_bytes=96 << 20, cpuset_cpus="0", cpu_quota=50_000, cpu_period=100_000)
    folder = cgroup_of(container)
    assert (folder / "memory.max").read_text() == f"{96 << 20}\n"
    assert (folder / "cpu.max").read_text() == "50000 100000\n"
    second = crisp.start_container(cpu_shares=512)
    assert set((cgroup_of(second) / "cgroup.controllers").read_text().split()) >= {"cpu", "cpuset", "io", "memory"}


def test_a_reload_is_a_hangup_and_changes_no_process(crisp: Service) -> None:
    before = crisp.main_pid
    systemctl("reload", "crisp")
    crisp.pods()
    assert crisp.main_pid == before


def test_a_unit_without_pods_that_is_stopped_leaves_nothing(crisp: Service) -> None:
    crisp.remove_pods()
    crisp.stop()
    wait_for(lambda: not UNIT.exists() or not processes(UNIT), "the unit's last process", PATIENCE)
    assert not list(CGROUPS.glob("crisp-*"))
    assert not Path("/sys/class/net/crisp0").exists()
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/run/crisp" in line]
    crisp.start()
    assert os.path.exists("/run/crisp/crisp.sock")
