"""A daemon's life from the first directory to the last log line, driven by signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest

from cri import daemon
from cri.images import Images
from cri.profiles import Profiles
from cri.settings import RegistrySettings, Settings
from cri.settings_file import SettingsError
from network.bridge import BridgeProvider
from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from runtime.errors import FailedPrecondition, Fault, HostFault
from tests.cri.harness import Crisp


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """The levels of the loggers as they were; ``caplog`` gets everything of ours."""
    loggers = [logging.getLogger(), logging.getLogger("crisp")]
    before = [logger.level for logger in loggers]
    loggers[1].setLevel(logging.INFO)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@contextlib.asynccontextmanager
async def running(settings: Settings, reload: daemon.Reload, patch: pytest.MonkeyPatch) -> AsyncIterator[socket.socket]:
    """A daemon that has said it is ready; afterwards SIGTERM has ended it. Its further notices arrive at the socket."""
    path = Path(settings.listen.removeprefix("unix://")).with_name("notify")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(path))
        notices.setblocking(False)
        patch.setenv("NOTIFY_SOCKET", str(path))
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(daemon.run(settings, reload))
                assert await asyncio.wait_for(loop.sock_recv(notices, 100), 45) == b"READY=1"
                yield notices
                os.kill(os.getpid(), signal.SIGTERM)  # the daemon's handlers stand since before READY
                await asyncio.wait_for(task, 45)
            assert await wait_notice(notices, b"STOPPING=1")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)


async def wait_notice(notices: socket.socket, wanted: bytes) -> bool:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(45):
        while await loop.sock_recv(notices, 100) != wanted:
            pass
    return True


async def wait_said(caplog: pytest.LogCaptureFixture, words: str) -> None:
    async with asyncio.timeout(45):
        while words not in caplog.text:
            await asyncio.sleep(0.005)


async def test_it_serves_both_sockets_until_sigterm_and_takes_them_away(
    new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = new_settings()
    listen, admin = Path(settings.listen.removeprefix("unix://")), Path(settings.state, "admin.sock")
    async with running(settings, lambda: settings, monkeypatch):
        assert [stat.S_IMODE(path.stat().st_mode) for path in (listen, admin)] == [0o660, 0o600]
        async with grpc.aio.insecure_channel(settings.listen) as channel:
            version = await rpc.RuntimeServiceStub(channel).Version(api.VersionRequest())
            assert version.runtime_name == "crisp"
            images = await rpc.ImageServiceStub(channel).ListImages(api.ListImagesRequest())
            assert not images.images
        assert Path("/sys/class/net", settings.network.bridge).exists()
    assert not listen.exists() and not admin.exists()
    assert f"serving on {listen}" in caplog.text and "stopping; 0 pods live on" in caplog.text


async def test_sighup_applies_the_log_level_and_names_what_needs_a_restart(
    new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = new_settings()
    wanted = [
        msgspec.structs.replace(
            settings, log_level="debug", metrics="127.0.0.1:1", registry=RegistrySettings(config_path="/elsewhere")
        )
    ]
    async with running(settings, lambda: wanted[0], monkeypatch):
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_said(caplog, "needs a restart: metrics")
        await wait_said(caplog, "reloaded: ")
        assert "log_level" in caplog.text
        assert logging.getLogger("crisp").level == logging.DEBUG
        wanted[0] = msgspec.structs.replace(wanted[0], metrics=settings.metrics)
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_said(caplog, "reloaded: nothing changed")


async def test_a_reload_with_wrong_settings_changes_nothing(
    new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = new_settings()

    def wrong() -> Settings:
        raise SettingsError("no such key: rot")

    async with running(settings, wrong, monkeypatch):
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_said(caplog, "reload refused, the old settings stay: no such key: rot")
        assert logging.getLogger("crisp").level == logging.INFO


async def test_the_watchdog_is_fed(new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = new_settings()
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    async with running(settings, lambda: settings, monkeypatch) as notices:
        for _ in range(2):
            assert await wait_notice(notices, b"WATCHDOG=1")


async def test_what_the_host_cannot_give_at_start_is_logged_and_it_serves(
    new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = new_settings()

    async def no_bridge(_: BridgeProvider) -> None:
        raise HostFault("made to fail", step="prepare the bridge")

    def no_profile(_profiles: Profiles, _capabilities: object) -> str:
        raise Fault("made to fail too")

    monkeypatch.setattr(BridgeProvider, "prepare", no_bridge)
    monkeypatch.setattr(Profiles, "default", no_profile)
    async with running(settings, lambda: settings, monkeypatch):
        await wait_said(caplog, "the default seccomp profile cannot be compiled: made to fail too")
        await wait_said(caplog, "the network is not ready: prepare the bridge: made to fail")


async def test_another_instances_bridge_keeps_it_from_starting_and_is_told_with_the_root(
    crisp: Crisp, new_settings: Callable[[], Settings]
) -> None:
    await crisp.run_pod()
    settings = new_settings()
    settings = msgspec.structs.replace(
        settings, network=msgspec.structs.replace(settings.network, bridge=crisp.host.settings.network.bridge)
    )
    with pytest.raises(FailedPrecondition, match="belongs to the crisp instance with the root") as refused:
        await asyncio.wait_for(daemon.run(settings, lambda: settings), 45)
    assert os.path.realpath(crisp.host.root) in str(refused.value)
    assert not Path(settings.listen.removeprefix("unix://")).exists()


async def test_a_socket_that_somebody_serves_on_is_refused_before_anything_is_made(
    crisp: Crisp, new_settings: Callable[[], Settings], caplog: pytest.LogCaptureFixture
) -> None:
    settings = msgspec.structs.replace(new_settings(), listen=crisp.host.settings.listen)
    assert await asyncio.to_thread(daemon.main, settings, lambda: settings) == 1
    assert "cannot serve: listen: " in caplog.text and "another process is serving on it" in caplog.text
    assert not os.path.exists(settings.root)


async def test_a_second_daemon_on_the_same_root_ends_with_the_pid_of_the_first(
    crisp: Crisp, new_settings: Callable[[], Settings], caplog: pytest.LogCaptureFixture
) -> None:
    settings = msgspec.structs.replace(crisp.host.settings, listen=new_settings().listen)
    assert await asyncio.to_thread(daemon.main, settings, lambda: settings) == 1
    assert f"another crisp daemon (pid {os.getpid()}) uses this root" in caplog.text


@contextlib.asynccontextmanager
async def serve_command(settings: Settings) -> AsyncIterator[None]:
    """``crisp serve`` as a process of its own; afterwards SIGTERM has ended it, with status 0."""
    path = Path(settings.listen.removeprefix("unix://")).with_name("notify-command")
    config = path.with_name("config.toml")
    config.write_text(
        f'listen = "{settings.listen}"\nroot = "{settings.root}"\nstate = "{settings.state}"\nmetrics = ""\n'
        f'[network]\nbridge = "{settings.network.bridge}"\nsubnets = ["{settings.network.subnets[0]}"]\n'
        f'[cni]\nconf_dir = "{settings.cni.conf_dir}"\n[pool]\nsize = 0\n'
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(path))
        notices.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cri", "serve", f"--config={config}"),
            env={**os.environ, "NOTIFY_SOCKET": str(path)},
        )
        try:
            assert await wait_notice(notices, b"READY=1")
            yield
        finally:
            process.terminate()
            code = await asyncio.wait_for(process.wait(), 45)
        assert code == 0


async def test_pods_live_on_when_it_stops(
    new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = new_settings()
    config = api.PodSandboxConfig(metadata=api.PodSandboxMetadata(name="pod", namespace="default", uid="uid"))
    async with serve_command(settings), grpc.aio.insecure_channel(settings.listen) as channel:
        made = await rpc.RuntimeServiceStub(channel).RunPodSandbox(api.RunPodSandboxRequest(config=config))
    async with (
        running(settings, lambda: settings, monkeypatch),
        grpc.aio.insecure_channel(settings.listen) as channel,
    ):
        stub = rpc.RuntimeServiceStub(channel)
        (pod,) = (await stub.ListPodSandbox(api.ListPodSandboxRequest())).items
        assert (pod.id, pod.state) == (made.pod_sandbox_id, api.SANDBOX_READY)
        await stub.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod.id))
    assert "recovered 1 pods, 1 of them live" in caplog.text and "stopping; 0 pods live on" in caplog.text


async def test_the_same_settings_twice_are_refused_with_the_pid_of_the_first(
    crisp: Crisp, caplog: pytest.LogCaptureFixture
) -> None:
    settings = crisp.host.settings
    assert await asyncio.to_thread(daemon.main, settings, lambda: settings) == 1
    assert f"another crisp daemon (pid {os.getpid()}) uses this root" in caplog.text


async def test_a_fault_of_the_system_at_start_is_one_line(
    new_settings: Callable[[], Settings], caplog: pytest.LogCaptureFixture
) -> None:
    settings = new_settings()
    Path(settings.root).mkdir()
    Path(settings.root, "cache").touch()
    Path(settings.root, "layers").touch()
    assert await asyncio.to_thread(daemon.main, settings, lambda: settings) == 1
    assert "cannot serve: " in caplog.text and "layers" in caplog.text and "Traceback" not in caplog.text


async def test_leaks_are_looked_for_while_it_runs(
    new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, seen = new_settings(), asyncio.Event()

    async def look(_host: object, *, repair: bool) -> list[object]:
        assert not repair
        seen.set()
        return []

    monkeypatch.setattr(daemon, "fsck", look)
    async with running(settings, lambda: settings, monkeypatch):
        await asyncio.wait_for(seen.wait(), 45)


async def test_layers_that_no_image_has_are_collected_while_it_runs(
    new_settings: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also after one time at which it did not work."""
    settings, seen = new_settings(), asyncio.Event()
    failures = [HostFault("made to fail")]

    async def collect(_: Images) -> None:
        if failures:
            raise failures.pop()
        seen.set()

    monkeypatch.setattr(daemon, "COLLECT_EVERY", 0.01)
    monkeypatch.setattr(Images, "collect", collect)
    async with running(settings, lambda: settings, monkeypatch):
        await asyncio.wait_for(seen.wait(), 45)
    assert "layers that no image has stay: made to fail" in caplog.text
