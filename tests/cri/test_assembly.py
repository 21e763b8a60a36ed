"""Building a daemon and taking it down: what it refuses, what it holds, what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cri import assembly
from cri.fsck import fsck
from cri.metrics_http import MetricsServer
from cri.recovery import recover
from cri.settings import CgroupSettings, RegistrySettings, Settings
from cri.state.meta import POD_CIDR
from cri.state.records import SandboxState
from cri.streaming.session import ForwardTicket
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, HostFault, Unavailable
from runtime.systemd.names import scope_name
from runtime.systemd.units import Units
from tests.cri.harness import Crisp, start
from tests.fake_systemd import FakeSystemd


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Crisp]:
    async with contextlib.AsyncExitStack() as undo:
        yield await start(settings, undo)


async def refused(settings: Settings) -> str:
    """What a daemon with these settings says, which is not built."""
    async with contextlib.AsyncExitStack() as undo:
        with pytest.raises(FailedPrecondition) as error:
            await assembly.build(settings, undo)
    return str(error.value)


@pytest.fixture
def low_limit() -> Iterator[tuple[int, int]]:
    """RLIMIT_NOFILE as a service manager sets it: soft far below hard."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = (min(1024, before[1] - 1), before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, low)
    yield low
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_second_daemon_on_the_same_root_is_refused_with_the_pid_of_the_first(crisp: Crisp) -> None:
    said = await refused(crisp.host.settings)
    assert f"another crisp daemon (pid {os.getpid()}) uses this root" in said
    assert (await crisp.run_pod()) in crisp.host.pods


async def test_directories_are_private_even_if_they_were_not(new_settings: Callable[[], Settings]) -> None:
    settings = new_settings()
    Path(settings.root).mkdir(0o755)
    async with serving(settings) as crisp:
        folders = [crisp.host.root, crisp.host.state, crisp.host.root / "containers", crisp.host.state / "pods"]
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


async def test_a_taken_metrics_port_is_fatal_and_what_was_built_is_taken_back(
    new_settings: Callable[[], Settings],
) -> None:
    settings = new_settings()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = await refused(msgspec.structs.replace(settings, metrics=address))
    assert address in said and "EADDRINUSE" in said
    async with serving(settings) as crisp:  # the root's lock is free again
        assert crisp.host.ready.is_set()


async def test_systemd_is_no_driver_where_it_cannot_be_and_the_reason_is_said(
    new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(new_settings(), cgroup=CgroupSettings("systemd"))
    monkeypatch.setattr(assembly, "find_obstacle", lambda _: "it is not here")
    assert await refused(settings) == 'use [cgroup] driver = "systemd": it is not here'
    monkeypatch.setattr(assembly, "find_obstacle", lambda _: "")
    monkeypatch.setattr(assembly, "Units", lambda: Units(f"{tmp_path}/bus", f"{tmp_path}/private"))
    async with contextlib.AsyncExitStack() as undo:
        with pytest.raises(Unavailable, match="private: no such file"):
            await assembly.build(settings, undo)


async def test_under_systemd_kubelet_is_told_so_and_units_of_nobody_are_found(
    new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(new_settings(), cgroup=CgroupSettings("systemd"))
    monkeypatch.setattr(assembly, "find_obstacle", lambda _: "")
    monkeypatch.setattr(assembly, "Units", lambda: Units(f"{tmp_path}/bus", f"{tmp_path}/private"))
    systemd = FakeSystemd()
    async with systemd.serving(tmp_path / "bus"), serving(settings) as crisp:
        answer = await crisp.runtime.RuntimeConfig(api.RuntimeConfigRequest())
        assert answer.linux.cgroup_driver == api.SYSTEMD
        stray = scope_name(crisp.host.instance, "dead")
        systemd.units = {stray: {}, scope_name("ffffffff", "dead"): {}}
        assert [(found.kind, found.object) for found in await fsck(crisp.host, repair=False)] == [("unit", stray)]
        assert [found.repaired for found in await fsck(crisp.host, repair=True)] == [True]
        assert list(systemd.units) == [scope_name("ffffffff", "dead")]


async def get(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: crisp\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


@pytest.fixture
def metrics_ports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where metrics are served, of each daemon that starts."""
    ports: list[int] = []
    original = MetricsServer.start

    async def keep(*args: Any) -> MetricsServer:
        server = await original(*args)
        ports.append(server.port)
        return server

    monkeypatch.setattr(MetricsServer, "start", keep)
    return ports


async def test_health_tells_of_recovery_and_metrics_count_pods(
    new_settings: Callable[[], Settings], metrics_ports: list[int]
) -> None:
    settings = msgspec.structs.replace(new_settings(), metrics="127.0.0.1:0")
    async with contextlib.AsyncExitStack() as undo:
        host = await assembly.build(settings, undo)
        (port,) = metrics_ports
        assert await get(port, "/healthz") == (503, "recovering\n")
        await recover(host)
        assert await get(port, "/healthz") == (200, "ok\n")
        status, body = await get(port, "/metrics")
        assert status == 200 and 'crisp_pods{state="ready"} 0.0' in body
    with pytest.raises(ConnectionRefusedError):
        await get(port, "/healthz")


async def test_a_scrape_tells_what_pods_and_containers_use(
    new_settings: Callable[[], Settings], metrics_ports: list[int]
) -> None:
    settings = msgspec.structs.replace(new_settings(), metrics="127.0.0.1:0")
    async with serving(settings) as crisp:
        await crisp.import_demo_image()
        sandbox = await crisp.run_pod(crisp.pod("seen"))
        running = await crisp.run(sandbox)
        limits = {"resources": {"memory_limit_in_bytes": 16 << 20}}
        status, _ = await crisp.run_to_end(sandbox, "sh", "-c", EAT, linux=limits)
        assert status.reason == "OOMKilled"
        found = await scrape(metrics_ports[0])
        pod = {name: value for (name, labels), value in found.items() if ("id", running) not in labels}
        assert pod["crisp_pod_memory_working_set_bytes"] > 0 and pod["crisp_pod_cpu_usage_seconds_total"] > 0
        assert pod["crisp_pod_processes"] >= 2 and "crisp_pod_network_transmit_bytes_total" in pod
        of_pod = {("sandbox", sandbox), ("namespace", "default"), ("pod", "seen")}
        here = frozenset(of_pod | {("container", "main"), ("id", running)})
        assert found["crisp_container_processes", here] == 1
        assert found["crisp_container_oom_kills_total", here] == 0
        ended = frozenset(of_pod | {("container", status.metadata.name), ("id", status.id)})
        assert found["crisp_container_oom_kills_total", ended] >= 1
        await crisp.remove_all()
        assert not [name for name, _ in await scrape(metrics_ports[0]) if name.startswith("crisp_container_")]


EAT = "x=x; while :; do x=$x$x; done"


async def scrape(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What is told of pods and containers, by name and labels."""
    status, body = await get(port, "/metrics")
    assert status == 200
    samples = [sample for family in text_string_to_metric_families(body) for sample in family.samples]
    wanted = [each for each in samples if each.name.startswith(("crisp_pod_", "crisp_container_"))]
    return {(each.name, frozenset(each.labels.items())): each.value for each in wanted}


async def test_the_descriptor_limit_is_raised_for_the_daemon_and_not_for_containers(
    new_settings: Callable[[], Settings], low_limit: tuple[int, int]
) -> None:
    async with serving(new_settings()) as crisp:
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (low_limit[1], low_limit[1])
        await crisp.import_demo_image()
        _, said = await crisp.run_to_end(await crisp.run_pod(), "sh", "-c", "ulimit -Sn; ulimit -Hn")
        assert said.split() == [str(limit) for limit in low_limit]
        await crisp.remove_all()


async def test_another_instances_bridge_is_refused_with_its_root(
    crisp: Crisp, new_settings: Callable[[], Settings]
) -> None:
    await crisp.run_pod()
    settings = new_settings()
    settings = msgspec.structs.replace(
        settings, network=msgspec.structs.replace(settings.network, bridge=crisp.host.settings.network.bridge)
    )
    async with serving(settings) as other:
        with pytest.raises(FailedPrecondition, match="belongs to the crisp instance with the root") as error:
            await other.host.network["bridge"].prepare()
    assert os.path.realpath(crisp.host.root) in str(error.value)


async def test_the_subnet_that_kubelet_once_sent_wins_over_the_settings(
    new_settings: Callable[[], Settings],
) -> None:
    settings = new_settings()
    (subnet,) = settings.network.subnets
    sent = subnet.replace("10.213.", "10.212.")
    async with serving(settings) as crisp:
        await crisp.host.meta.set(POD_CIDR, sent)
    async with serving(settings) as crisp:
        record = crisp.host.store.sandboxes.get(await crisp.run_pod())
        assert record.addresses[0].startswith(sent.removesuffix("0/24"))
        await crisp.remove_all()


async def test_the_bridge_stays_with_the_pods_and_goes_with_the_last(new_settings: Callable[[], Settings]) -> None:
    settings = new_settings()
    link = Path("/sys/class/net", settings.network.bridge)
    async with serving(settings) as crisp:
        sandbox = await crisp.run_pod()
        zygote = crisp.host.supervisor.zygote_pid
    monitor = crisp.host.pods.pop(sandbox).monitor
    monitor.close()
    assert link.exists() and os.path.exists(f"/proc/{monitor.pid}") and not is_running(zygote)
    async with serving(settings) as crisp:
        assert list(crisp.host.pods) == [sandbox]
        await crisp.remove_all()
        assert link.exists()
    assert not link.exists() and os.listdir(settings.state + "/pods") == []


def is_running(pid: int | None) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


async def test_tasks_have_ended_when_the_daemon_has(new_settings: Callable[[], Settings]) -> None:
    async with serving(new_settings()) as crisp:
        task = crisp.host.tasks.spawn("of this test", asyncio.Event().wait())
    assert task.cancelled() and len(crisp.host.tasks) == 0


async def test_killed_monitors_and_zygote_are_noticed_and_the_zygote_is_replaced(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    zygote = crisp.host.supervisor.zygote_pid
    await assembly.kill_monitors(crisp.host)
    await crisp.until(lambda: crisp.host.store.sandboxes.get(sandbox).state is SandboxState.NOTREADY)
    assert crisp.host.store.sandboxes.get(sandbox).reason == "the pod's monitor ended"
    again = await crisp.run_pod()
    assert crisp.host.supervisor.zygote_pid not in (None, zygote) and list(crisp.host.pods) == [again]


async def test_streams_are_served_from_the_loopback_until_the_end(
    new_settings: Callable[[], Settings],
) -> None:
    async def serve(_: object) -> None: ...

    async with serving(new_settings()) as crisp:
        url = crisp.host.offer(ForwardTicket(frozenset(), serve))
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/portforward/[\w-]{22,}", url)
        assert found is not None
        _, writer = await asyncio.open_connection("127.0.0.1", int(found[1]))
        writer.close()
        await writer.wait_closed()
    with pytest.raises(OSError, match=r"refused|failed"):
        await asyncio.open_connection("127.0.0.1", int(found[1]))


async def test_a_reload_takes_the_log_level_and_the_registries_alone(new_settings: Callable[[], Settings]) -> None:
    old = new_settings()
    new = msgspec.structs.replace(
        old, log_level="debug", registry=RegistrySettings(config_path="/other"), metrics="127.0.0.1:1", root="/other"
    )
    merged = assembly.with_reloaded(old, new)
    assert (merged.log_level, merged.registry) == ("debug", new.registry)
    assert (merged.metrics, merged.root) == (old.metrics, old.root)


async def test_a_state_directory_with_pods_of_another_root_is_refused_and_they_live(
    crisp: Crisp, new_settings: Callable[[], Settings]
) -> None:
    pod = await crisp.run_pod()
    said = await refused(msgspec.structs.replace(new_settings(), state=crisp.host.settings.state))
    assert f"is used by the crisp instance with the root {os.path.realpath(crisp.host.root)}" in said
    assert (crisp.host.state / "pods" / pod / "ns").is_dir()


async def test_root_and_state_may_not_be_the_same_directory_by_a_link(new_settings: Callable[[], Settings]) -> None:
    settings = new_settings()
    Path(settings.root).mkdir()
    Path(settings.state).symlink_to(settings.root)
    assert "they must differ" in await refused(settings)


async def test_a_directory_that_cannot_be_made_is_a_fault_of_the_host(new_settings: Callable[[], Settings]) -> None:
    settings = new_settings()
    Path(settings.root).touch()
    async with contextlib.AsyncExitStack() as undo:
        with pytest.raises(HostFault, match=rf"make the directory: {settings.root}: mkdir: .*EEXIST"):
            await assembly.build(settings, undo)


async def test_the_network_stays_while_an_address_is_held_and_with_who_only_looks(
    new_settings: Callable[[], Settings], caplog: pytest.LogCaptureFixture
) -> None:
    """As after a kill: a blank pod has an address, and no record."""
    settings = new_settings()
    bridge = Path("/sys/class/net", settings.network.bridge)
    provider: Any
    async with serving(settings) as crisp:
        provider = crisp.host.network["bridge"]
        await provider.prepare()
        await provider._leases.acquire(provider._prepared.pools[0], "f" * 64)
    assert bridge.exists() and "the network stays: remove the bridge" in caplog.text
    async with contextlib.AsyncExitStack() as undo:
        host = await assembly.build(settings, undo, looking=True)
        assert [finding.kind for finding in await fsck(host, repair=False)] == ["lease"]
    async with contextlib.AsyncExitStack() as undo:
        host = await assembly.build(settings, undo, looking=True)
        for orphan in await host.network["bridge"].orphans(()):
            await host.network["bridge"].remove_orphan(orphan)
    assert bridge.exists()
    async with serving(settings) as crisp:
        await crisp.host.network["bridge"].prepare()
    assert not bridge.exists()
