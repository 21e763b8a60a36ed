"""The CNI's own programs against what runs plugins here: its test plugin, its reference plugins.

    make conformance          (as root; or: python tests/conformance/cni_programs.py)

Go builds them as they are published (go.mod and go.sum in ``cni``), once, into the user's cache.
The library of ``noop`` checks what a plugin is told, in every version of the specification: which
variables there are, the version, the previous result; and it writes down what it was told. The
reference plugins of Debian know no 1.1.0; those that are built here do, and connect the pods of
``tests/cri/test_cni.py``. Without Go or without root it says so and ends with status 0.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from network.cni.cache import Entry
from network.cni.chain import Chain
from network.cni.conf import parse_list
from network.cni.environment import plan_arguments
from network.cni.versions import SUPPORTED, has_check, has_status
from network.provider import AttachRequest
from runtime.errors import HostFault
from tests import golang
from tests.kernel.network.conftest import Netns

HERE = Path(__file__).resolve().parent
NOOP = "github.com/containernetworking/cni/plugins/test/noop"
REFERENCE = [
    f"github.com/containernetworking/plugins/plugins/{name}"
    for name in ("main/bridge", "ipam/host-local", "meta/portmap", "meta/tuning")
]
ID = "ab" * 32
SECONDS = 30.0
RESULT: dict[str, Any] = {
    "interfaces": [{"name": "eth0", "sandbox": "/proc/self/ns/net"}],
    "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 0}],
    "routes": [{"dst": "0.0.0.0/0"}],
}


class Plugin:
    """Two of it in a chain: the first has a result, the second passes it on."""

    def __init__(self, folder: Path, version: str, netns: str) -> None:
        self.folder, self.version = folder, version
        result = {**RESULT, "cniVersion": version}
        if version in ("0.3.1", "0.4.0"):
            result["ips"] = [{**RESULT["ips"][0], "version": "4"}]
        self.first, self.second = (folder / f"{name}-{version}" for name in ("first", "second"))
        self.say(self.first, ReportResult=json.dumps(result))
        self.say(self.second, ReportResult="PASSTHROUGH")
        plugins = [{"type": "noop", "debugFile": str(file)} for file in (self.first, self.second)]
        conf = parse_list({"cniVersion": version, "name": "net", "plugins": plugins})
        request = AttachRequest(
            sandbox_id=ID, netns_fd=-1, netlink_fd=-1, pod_name="web", pod_namespace="shop", pod_uid="u"
        )
        self.entry = Entry(sandbox_id=ID, conf=conf, netns=netns, arguments=plan_arguments(request))

    @staticmethod
    def say(file: Path, **words: Any) -> None:
        file.write_text(json.dumps(words))

    def heard(self, file: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """The command, the arguments and the configuration."""
        told = json.loads(file.read_text())
        config = json.loads(base64.b64decode(told["CmdArgs"]["StdinData"]))
        return told["Command"], told["CmdArgs"], config


async def attach_and_detach(chain: Chain, plugin: Plugin) -> None:
    result = await chain.add(plugin.entry, SECONDS)
    assert result.addresses("eth0") == ("10.1.0.2",), result
    command, arguments, config = plugin.heard(plugin.second)
    assert (command, arguments["ContainerID"], arguments["IfName"]) == ("ADD", ID, "eth0"), arguments
    assert arguments["Args"].startswith("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;"), arguments
    assert config["prevResult"]["ips"][0]["address"] == "10.1.0.2/24", config
    made = replace(plugin.entry, result=result)
    if has_check(plugin.version):
        await chain.check(made, SECONDS)
        assert plugin.heard(plugin.second)[0] == "CHECK"
    plugin.say(plugin.second)
    await chain.delete(made, SECONDS)
    command, arguments, config = plugin.heard(plugin.first)
    assert command == "DEL" and ("prevResult" in config) == has_check(plugin.version), config
    plugin.say(plugin.first)
    await chain.delete(replace(made, netns="/run/gone"), SECONDS)
    assert plugin.heard(plugin.first)[1]["Netns"] == ""


async def ask(chain: Chain, plugin: Plugin) -> None:
    """STATUS and GC, which 1.1.0 has."""
    if has_status(plugin.version):
        plugin.say(plugin.first)
        plugin.say(plugin.second)
        await chain.status(plugin.entry.conf, SECONDS)
        assert plugin.heard(plugin.first)[0] == "STATUS"
        await chain.collect(plugin.entry.conf, [ID], SECONDS)
        command, _, config = plugin.heard(plugin.second)
        assert command == "GC", command
        assert config["cni.dev/valid-attachments"] == [{"containerID": ID, "ifname": "eth0"}], config


async def fail(chain: Chain, plugin: Plugin) -> None:
    plugin.say(plugin.first, ReportError="no more addresses", ReportErrorCode=11, ReportStderr="a hint\n")
    try:
        await chain.add(plugin.entry, SECONDS)
    except HostFault as fault:
        assert "plugin noop: no more addresses (code 11); it wrote: a hint" in str(fault), fault
    else:
        raise AssertionError("an error of the plugin was not told")


def connect_pods(folder: Path) -> None:
    """Raises CalledProcessError if a test fails."""
    for package in REFERENCE:
        shutil.copy(golang.build(HERE / "cni", package), folder / package.rpartition("/")[2])
    command = [sys.executable, "-m", "pytest", "-q", "tests/cri/test_cni.py"]
    environment = {**os.environ, "CRISP_CNI_PLUGINS": str(folder), "CRISP_CNI_VERSION": "1.1.0"}
    subprocess.run(command, cwd=HERE.parent.parent, env=environment, check=True)


async def run_all(folder: Path, netns: str) -> None:
    chain = Chain(str(folder))
    for version in SUPPORTED:
        for step in (attach_and_detach, ask, fail):
            await step(chain, Plugin(folder, version, netns))
        print(f"ok: {version}")


def main() -> int:
    if golang.is_missing():
        print("skipped: needs Go, to build the CNI's test plugin")
        return 0
    if os.geteuid() != 0:
        print("skipped: needs root, for a network namespace")
        return 0
    pod = Netns()
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(pod):
        try:
            shutil.copy(golang.build(HERE / "cni", NOOP), Path(folder) / "noop")
            asyncio.run(run_all(Path(folder), f"/proc/{os.getpid()}/fd/{pod.fd}"))
            connect_pods(Path(folder))
        except (AssertionError, HostFault, subprocess.CalledProcessError) as failure:
            print(f"failed: {failure}")
            return 1
    print(f"the CNI's test plugin: {len(SUPPORTED)} versions passed; its reference plugins connect pods in 1.1.0")
    return 0


if __name__ == "__main__":
    sys.exit(main())
