"""CNI plugins are programs of the host: which are run, and what they are told (R5, R7)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from cri import networks
from proto import api_pb2 as api
from tests.cri.harness import settings_in, start
from tests.fake_cni import FakePlugins
from tests.security.attacks import Attacked, Code, refused

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]


@pytest.fixture
def plugins(tmp_path: Path) -> FakePlugins:
    return FakePlugins(tmp_path / "bin", tmp_path / "cni")


@pytest_asyncio.fixture(loop_scope="module")
async def crisp(plugins: FakePlugins, tmp_path: Path) -> AsyncIterator[Attacked]:
    """A daemon with plugins of ours, and a program beside their folder that nobody may run."""
    canary = tmp_path / "sh"
    canary.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
    canary.chmod(0o755)
    settings = settings_in(tmp_path, os.getpid() % 200 + 22)
    asked = msgspec.structs.replace(settings.cni, bin_dir=str(plugins.folder))
    async with contextlib.AsyncExitStack() as undo:
        started = await start(msgspec.structs.replace(settings, cni=asked), undo)
        crisp = Attacked(started.host, started.channel)
        await crisp.image()
        await networks.prepare(crisp.host)
        yield crisp
        await crisp.remove_all()


PATHS = ("../sh", "../../../../bin/sh", "/bin/sh", "first/../../sh", "", "first\0", "-c", "a b")


async def test_a_type_that_is_a_path_is_no_plugin(crisp: Attacked, plugins: FakePlugins, tmp_path: Path) -> None:
    """CVE-2021-20206: the type of a plugin or of its ipam leads out of the folder. A path that is joined, the weak
    variant, is the program beside it."""
    assert os.access(os.path.join(plugins.folder, "../sh"), os.X_OK)
    for kind in PATHS:
        for plugin in ({"type": kind}, {"type": "first", "ipam": {"type": kind or "../sh"}}):
            plugins.configure({"cniVersion": "1.1.0", "name": "net", "plugins": [plugin]})
            assert not (await networks.status(crisp.host)).ready
            await refused(crisp.run_pod(), Code.UNAVAILABLE)
    assert plugins.calls() == []
    assert not (tmp_path / "canary").exists()


async def test_a_plugin_is_told_nothing_by_an_image_or_a_container(crisp: Attacked, plugins: FakePlugins) -> None:
    """CVE-2025-23266: a program of the host that ran with the image's variables loaded the image's library. Plugins
    get the variables of the CNI and a search path, and neither descriptors nor a directory of anybody."""
    plugins.configure()
    assert (await networks.status(crisp.host)).ready
    hostile = {"LD_PRELOAD": "/hostile.so", "PYTHONPATH": "/hostile", "BASH_ENV": "/hostile"}
    image = await crisp.image(settings={"Env": [f"{key}={value}" for key, value in hostile.items()]})
    pod = await crisp.run_pod(crisp.pod(annotations=hostile, labels=hostile))
    envs = [api.KeyValue(key=key, value=value.encode()) for key, value in hostile.items()]
    id = await crisp.run(pod, crisp.attacker("sleep", "1000", image=image, envs=envs))
    weak = Path(f"/proc/{crisp.pid(id)}/environ").read_text()  # what a hook would inherit
    assert all(f"{key}={value}" in weak for key, value in hostile.items())
    await crisp.remove_all()
    calls = plugins.calls()
    assert {call["command"] for call in calls} >= {"ADD", "DEL"}
    allowed = {"PATH", "LC_ALL", "LC_CTYPE", "PWD"}
    for call in calls:
        assert {name for name in call["environment"] if not name.startswith("CNI_")} <= allowed
        assert "hostile" not in json.dumps(call["environment"])
        assert call["descriptors"] == [0, 1, 2] and call["cwd"] == "/"


async def test_a_name_adds_no_argument(crisp: Attacked, plugins: FakePlugins) -> None:
    """Names of a pod in CNI_ARGS, one text with semicolons: what is pasted together, the weak variant, has one more."""
    weak = "K8S_POD_NAME={}".format("a;IP=10.0.0.1")
    assert dict(part.split("=") for part in weak.split(";"))["IP"] == "10.0.0.1"
    plugins.configure()
    assert (await networks.status(crisp.host)).ready
    for field in ("name", "namespace", "uid"):
        config = crisp.pod()
        setattr(config.metadata, field, "a;IP=10.0.0.1")
        await refused(crisp.run_pod(config), Code.INVALID_ARGUMENT, "semicolon")
    assert {call["command"] for call in plugins.calls()} == {"STATUS"} and plugins.leases() == []
