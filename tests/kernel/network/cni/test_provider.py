"""The CNI provider: what stands on disk when, what is tried again, what is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from network.cni import debts
from network.cni.provider import CniProvider, CniSettings
from network.errors import NetworkNotReady
from network.netthread import NetThread
from network.provider import AttachRequest, Dns, PortMapping
from runtime.errors import DeadlineExceeded, HostFault, InvalidArgument
from tests.fake_cni import FakePlugins
from tests.kernel.network.conftest import Netns

ID, OTHER = "ab" * 32, "cd" * 32


class Setup:
    """Plugins of ours, and a daemon's provider that can be replaced by the next daemon's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugins = FakePlugins(folder / "bin", folder / "net.d")
        self.settings = CniSettings(
            conf_dir=str(folder / "net.d"), bin_dir=str(folder / "bin"), root=folder, seconds=20.0
        )
        self.thread = NetThread()
        self.tasks: set[asyncio.Task[None]] = set()
        self.pod = Netns()
        self.socket = self.pod.route_socket()
        self.provider = self.new_provider()

    def restart(self, **changes: Any) -> CniProvider:
        """The provider of the next daemon."""
        values = {name: getattr(self.settings, name) for name in self.settings.__dataclass_fields__}
        self.settings = CniSettings(**{**values, **changes})
        self.provider.close()
        self.provider = self.new_provider()
        return self.provider

    def new_provider(self) -> CniProvider:
        return CniProvider(self.settings, self.thread, self.spawn, ("10.1.0.0/24",))

    def spawn(self, _name: str, work: Coroutine[Any, Any, None]) -> object:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        return task

    def request(self, **changes: Any) -> AttachRequest:
        given = {"sandbox_id": ID, "netns_path": f"/proc/{os.getpid()}/fd/{self.pod.fd}", **changes}
        given = {"pod_name": "web", "pod_namespace": "shop", "pod_uid": "u", **given}
        return AttachRequest(netns_fd=self.pod.fd, netlink_fd=self.socket.fileno(), **given)

    def on_disk(self) -> dict[str, Any]:
        folder = self.folder / "cni"
        return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")} if folder.is_dir() else {}

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.provider.close()
        self.socket.close()
        self.pod.close()
        self.thread.close()


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path)
    made.plugins.configure()
    made.provider.selection.refresh()
    try:
        yield made
    finally:
        await made.close()


async def test_a_pod_is_attached_by_the_plugins_and_its_loopback_is_up(setup: Setup) -> None:
    attachment = await setup.provider.attach(setup.request(dns=Dns(("10.0.0.10",))))
    assert (attachment.provider, attachment.addresses) == ("cni", ("10.9.8.7", "fd09::7"))
    assert (attachment.gateway, attachment.interface, attachment.host_interface) == ("10.9.8.1", "eth0", "host0")
    assert "UP" in setup.pod.ip("link", "show", "lo")
    kept = setup.on_disk()[ID]
    assert kept["network"]["name"] == "net" and kept["result"]["ips"][0]["address"] == "10.9.8.7/24"
    assert kept["args"]["K8S_POD_NAME"] == "web" and kept["capabilities"]["dns"] == {"servers": ["10.0.0.10"]}
    assert setup.provider.attached()
    await setup.provider.detach(ID)
    assert setup.plugins.order() == ["first ADD", "second ADD", "second DEL", "first DEL"]
    await setup.provider.detach(ID)
    assert setup.plugins.calls() == [] and setup.on_disk() == {} and setup.plugins.leases() == []
    assert not setup.provider.attached()


async def test_the_path_of_a_pod_is_told_from_the_result_and_the_kernel(setup: Setup) -> None:
    async def missing(*fds: int) -> dict[str, str]:
        hops = await setup.provider.explain(ID, fds)
        return {f"{hop.part} {hop.name}": hop.missing for hop in hops if hop.missing}

    assert list(await missing()) == ["network CNI"]
    await setup.provider.attach(setup.request())
    fd = setup.socket.fileno()
    network, *_ = await setup.provider.explain(ID, (fd,))
    assert (network.name, network.missing) == ("net", "")
    assert network.found == f"CNI 1.1.0, of {setup.folder}/net.d/10-net.conflist, plugins first, second"
    told = {"address 10.9.8.7/24": "not on eth0", "address fd09::7/64": "not on eth0"}
    nowhere = "there is no such interface"
    assert await missing(fd) == {**told, "interface eth0": nowhere, "host's end host0": nowhere}
    setup.pod.ip("link", "add", "eth0", "type", "veth", "peer", "name", "x0")
    for name in ("eth0", "x0"):
        setup.pod.ip("link", "set", name, "up")
    for address in ("10.9.8.7/24", "fd09::7/64"):
        setup.pod.ip("address", "add", address, "dev", "eth0")
    assert await missing(fd) == {"host's end host0": nowhere}
    assert (await missing())["interface eth0"] == "the pod's network namespace is gone"
    setup.plugins.configure(version="0.4.0", plugins=[{"type": "second"}])
    setup.provider.selection.refresh()
    network, *_ = await setup.provider.explain(ID, (fd,))
    assert network.found == "CNI 1.1.0, of no configuration of now, plugins first, second"
    (setup.folder / "cni" / f"{ID}.json").write_text("{")
    assert "is not what was written" in (await missing(fd))["network CNI"]
    await setup.provider.detach(ID)


async def test_the_intent_is_on_disk_before_add_and_a_failed_add_is_detached(setup: Setup) -> None:
    setup.plugins.behave({"second ADD": "error"})
    with pytest.raises(HostFault, match="no more addresses"):
        await setup.provider.attach(setup.request())
    assert setup.on_disk()[ID]["result"] is None and setup.plugins.leases() != []
    await setup.provider.detach(ID)
    assert setup.plugins.leases() == [] and setup.on_disk() == {}


async def test_a_plugin_that_is_missing_is_told_before_any_is_called_and_nothing_is_owed(setup: Setup) -> None:
    setup.plugins.configure(plugins=[{"type": "first"}, {"type": "absent"}])
    await setup.provider.status()
    setup.plugins.calls()
    with pytest.raises(HostFault, match=f"attach the pod to the network: plugin absent: is not in {setup.folder}/bin"):
        await setup.provider.attach(setup.request())
    assert setup.plugins.calls() == [] and setup.on_disk() == {}
    await setup.provider.detach(ID)
    assert await setup.provider.orphans(()) == ()


async def test_a_result_without_an_address_is_refused(setup: Setup) -> None:
    setup.plugins.behave({"second ADD": "no address"})
    with pytest.raises(HostFault, match="network net: the result has no address of the pod"):
        await setup.provider.attach(setup.request())
    await setup.provider.detach(ID)
    assert setup.plugins.leases() == []


async def test_attaching_again_detaches_what_was_attached(setup: Setup) -> None:
    await setup.provider.attach(setup.request())
    await setup.provider.attach(setup.request())
    assert setup.plugins.order()[2:4] == ["second DEL", "first DEL"]
    await setup.provider.detach(ID, force=True)


async def test_del_is_done_by_the_next_daemon_without_configuration_and_namespace(setup: Setup) -> None:
    await setup.provider.attach(setup.request(netns_path="/run/gone"))
    (setup.folder / "net.d" / "10-net.conflist").unlink()
    await setup.restart().detach(ID)
    delete = setup.plugins.calls()[-1]
    assert (delete["command"], delete["environment"]["CNI_NETNS"]) == ("DEL", "")
    assert delete["config"]["prevResult"]["ips"][0]["address"] == "10.9.8.7/24"
    assert setup.plugins.leases() == []


async def test_a_pod_is_detached_by_the_configuration_that_attached_it(setup: Setup) -> None:
    await setup.provider.attach(setup.request())
    setup.plugins.configure(version="0.4.0", plugins=[{"type": "second"}])
    setup.provider.selection.refresh()
    setup.plugins.calls()
    await setup.provider.detach(ID)
    assert setup.plugins.order() == ["second DEL", "first DEL"]


async def test_a_spoiled_file_is_detached_by_the_configuration_of_now(setup: Setup) -> None:
    await setup.provider.attach(setup.request())
    (setup.folder / "cni" / f"{ID}.json").write_text("{")
    await setup.provider.detach(ID)
    assert setup.plugins.leases() == [] and setup.on_disk() == {}


async def test_a_spoiled_file_without_a_configuration_stays_a_debt(setup: Setup) -> None:
    await setup.provider.attach(setup.request())
    (setup.folder / "cni" / f"{ID}.json").write_text("{")
    path = setup.folder / "net.d" / "10-net.conflist"
    path.rename(setup.folder / "kept")
    setup.provider.selection.refresh()
    with pytest.raises(HostFault, match="is not what was written"):
        await setup.provider.detach(ID)
    (setup.folder / "kept").rename(path)
    setup.provider.selection.refresh()
    await setup.provider.detach(ID)
    assert setup.plugins.leases() == []


async def test_a_plugin_that_is_broken_for_good_is_told_and_then_no_longer_in_the_way(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.provider.attach(setup.request())
    setup.plugins.behave({"first DEL": "error"})
    for _ in range(debts.TOLD - 1):
        with pytest.raises(HostFault, match="plugin first: no more addresses"):
            await setup.provider.detach(ID)
    await setup.provider.detach(ID)
    assert setup.plugins.leases() == [f"first-{ID}"] and ID in setup.on_disk()
    setup.plugins.calls()
    await setup.provider.detach(ID)  # it is not the caller's any more
    assert setup.plugins.calls() == []
    setup.plugins.behave({})
    await asyncio.wait_for(asyncio.gather(*setup.tasks), 30)
    assert setup.plugins.leases() == [] and setup.on_disk() == {}


async def test_what_belongs_to_nobody_is_found_and_goes_on_to_be_tried(setup: Setup) -> None:
    await setup.provider.attach(setup.request())
    await setup.provider.attach(setup.request(sandbox_id=OTHER))
    (orphan,) = await setup.provider.orphans([ID])
    assert (orphan.kind.value, orphan.owner) == ("CNI attachment", OTHER)
    setup.plugins.behave({"second DEL": "error"})
    with pytest.raises(HostFault):
        await setup.provider.remove_orphan(orphan)
    setup.plugins.behave({})
    await asyncio.wait_for(asyncio.gather(*setup.tasks), 30)
    assert await setup.provider.orphans([ID]) == ()
    (orphan,) = await setup.provider.orphans([])
    await setup.provider.remove_orphan(orphan)
    await setup.provider.teardown()
    assert setup.plugins.leases() == []


async def test_a_plugin_of_a_killed_daemon_is_ended_before_del(setup: Setup) -> None:
    await setup.provider.attach(setup.request())
    left = subprocess.Popen(["/bin/sleep", "1000"], env={"CNI_CONTAINERID": ID})
    await setup.restart().detach(ID)
    assert left.poll() == -9


async def test_what_hangs_is_ended_and_the_pod_is_detached(setup: Setup) -> None:
    setup.restart(seconds=3.0)
    setup.provider.selection.refresh()
    setup.plugins.behave({"first ADD": "hang"})
    with pytest.raises(DeadlineExceeded, match="waiting for a server"):
        await setup.provider.attach(setup.request())
    await setup.provider.detach(ID)
    assert setup.plugins.leases() == []


async def test_status_says_in_words_why_a_pod_cannot_be_attached(setup: Setup) -> None:
    provider, plugins = setup.provider, setup.plugins
    assert await provider.status() == type(await provider.status())(True)
    plugins.configure(file="20-net.conflist")
    assert "10-net.conflist, 20-net.conflist all have the network 'net'" in (await provider.status()).message
    plugins.behave({"second STATUS": "error"})
    said = await provider.status()
    assert (said.ready, said.reason) == (False, "NetworkPluginNotReady")
    assert "plugin second: no more addresses: in the pool (code 7); it wrote: a line and another" in said.message
    plugins.configure("{")
    assert "10-net.conflist is not JSON" in (await provider.status()).message
    with pytest.raises(NetworkNotReady, match="is not JSON"):
        await provider.attach(setup.request())
    plugins.configure(plugins=[{"type": "third"}])
    assert f"plugin third: is not in {plugins.folder}" in (await provider.status()).message


async def test_who_asks_for_the_status_at_once_shares_an_answer(setup: Setup) -> None:
    answers = await asyncio.gather(*(setup.provider.status() for _ in range(5)))
    assert [answer.ready for answer in answers] == [True] * 5
    assert setup.plugins.order() == ["first STATUS", "second STATUS"]
    await setup.provider.status()
    assert setup.plugins.order() == ["first STATUS", "second STATUS"]


async def test_check_says_what_is_not_as_it_was_made(setup: Setup) -> None:
    assert await setup.provider.check(ID) == ""
    await setup.provider.attach(setup.request())
    assert await setup.provider.check(ID) == ""
    setup.plugins.behave({"second CHECK": "error"})
    assert "check the pod's network: plugin second: no more addresses" in await setup.provider.check(ID)
    await setup.provider.detach(ID)


async def test_garbage_is_collected_and_what_is_attached_stays(setup: Setup) -> None:
    await setup.provider.attach(setup.request())
    (setup.plugins.folder / "leases" / f"first-{OTHER}").touch()
    await setup.provider.collect()
    assert setup.plugins.leases() == [f"first-{ID}", f"second-{ID}"]
    (setup.folder / "cni" / f"{OTHER}.json").write_text("{")  # it may be one of this network
    (setup.plugins.folder / "leases" / f"first-{OTHER}").touch()
    await setup.provider.collect()
    assert f"first-{OTHER}" in setup.plugins.leases()
    setup.plugins.configure(name="another")
    setup.plugins.calls()
    await setup.provider.collect()
    assert [each["containerID"] for each in setup.plugins.calls()[0]["config"]["cni.dev/valid-attachments"]] == [OTHER]
    for each in (ID, OTHER):
        await setup.provider.detach(each)


async def test_a_collection_that_fails_or_has_no_network_is_no_error(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    await setup.provider.collect()
    assert setup.plugins.calls() == []  # it never attached a pod: others may have
    await setup.provider.attach(setup.request())
    await setup.provider.detach(ID)
    setup.plugins.behave({"first GC": "error"})
    await setup.provider.collect()
    assert "collect the garbage of the network: plugin first" in caplog.text
    (setup.folder / "net.d" / "10-net.conflist").unlink()
    setup.plugins.calls()
    await setup.provider.collect()
    assert setup.plugins.calls() == []


async def test_plugins_are_told_the_nodes_subnets_and_the_pods_ports(setup: Setup) -> None:
    await setup.provider.set_subnets(["10.7.0.0/24", "fd07::/64"])
    capabilities = {"ipRanges": True, "portMappings": True}
    setup.plugins.configure(plugins=[{"type": "first", "capabilities": capabilities}])
    setup.provider.selection.refresh()
    await setup.provider.attach(setup.request(port_mappings=(PortMapping("tcp", 8080, 80, ""),)))
    told = setup.plugins.calls()[0]["config"]["runtimeConfig"]
    assert told["ipRanges"] == [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd07::/64"}]]
    assert told["portMappings"][0]["hostPort"] == 8080
    await setup.provider.detach(ID)
    with pytest.raises(InvalidArgument, match="not allowed on this node"):
        await setup.provider.attach(setup.request(annotations={"cni.crisp/deviceID": "0000:03:00.0"}))
    assert setup.on_disk() == {} and setup.provider.name == "cni"


async def test_what_no_plugin_declares_is_told_in_the_log(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    annotations = {"kubernetes.io/egress-bandwidth": "1M"}
    await setup.provider.attach(setup.request(port_mappings=(PortMapping("tcp", 1, 2, ""),), annotations=annotations))
    assert "the network net has no plugin for portMappings of the pod" in caplog.text
    assert "the network net has no plugin for bandwidth of the pod" in caplog.text
    await setup.provider.detach(ID)


async def test_the_template_is_written_when_the_daemon_prepares(setup: Setup) -> None:
    (setup.folder / "template").write_text(json.dumps(setup.plugins.conflist()))
    (setup.folder / "net.d" / "10-net.conflist").unlink()
    await setup.restart(template=str(setup.folder / "template")).prepare()
    assert os.listdir(setup.folder / "net.d") == ["10-crisp-net.conflist"]


async def test_two_pods_are_attached_at_once_and_one_pod_is_not(setup: Setup) -> None:
    async with asyncio.TaskGroup() as group:
        for each in (ID, OTHER, ID):
            group.create_task(setup.provider.attach(setup.request(sandbox_id=each)))
    assert sorted(setup.on_disk()) == [ID, OTHER]
    with contextlib.suppress(ExceptionGroup):
        await asyncio.gather(setup.provider.detach(ID), setup.provider.detach(ID), setup.provider.detach(OTHER))
    assert setup.plugins.leases() == []


async def test_what_an_earlier_daemon_had_only_begun_to_write_goes_before_anything_is_attached(setup: Setup) -> None:
    await setup.provider.attach(setup.request(sandbox_id=OTHER))
    partial = setup.folder / "cni" / f"{ID}.partial"
    partial.write_text("{")
    provider = setup.restart()
    provider.selection.refresh()
    await provider.attach(setup.request())
    assert not partial.exists() and sorted(setup.on_disk()) == [ID, OTHER]
    for each in (ID, OTHER):
        await provider.detach(each)
