"""The daemon's life: build the object graph, serve, recover, stop.

``cri.cli.serve`` calls ``main``; ``cri.assembly`` builds the graph. The order
matters: the zygote is started before the first gRPC thread exists, the socket
appears only when it serves, and on SIGTERM the daemon and its zygote go while
pods live on.

Invariant: an error before serving ends the process with one line that says why,
and what had been made by then is taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from cri import admin, assembly, logs, networks, services
from cri.errors import words_of
from cri.fsck import fsck
from cri.host import Host
from cri.interceptor import Interceptor, is_quiet
from cri.notify import notify, watchdog_seconds
from cri.plan.capabilities import plan_capabilities
from cri.recovery import recover
from cri.root_lock import refuse_held_root
from cri.server import Handler, listen, new_server, plan_handlers, refuse_live_socket, remove_socket
from cri.settings import Settings, compare
from proto import admin_pb2, api_pb2
from runtime.errors import FailedPrecondition, Fault

LOG = logging.getLogger("crisp.daemon")

GRACE = 3.0
"""Seconds that RPCs in flight get when the daemon stops."""

LEAKS_EVERY = 300.0
"""Seconds between two looks for objects that belong to no record."""

COLLECT_EVERY = 3600.0
"""Seconds between two collections of layers that no image has, beside those at each removal."""

Reload = Callable[[], Settings]
"""Reads the settings again; raises a Fault if they are wrong now."""


def main(settings: Settings, reload: Reload) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    try:
        asyncio.run(run(settings, reload))
    except (Fault, OSError) as fault:
        LOG.critical("cannot serve: %s", words_of(fault))
        return 1
    return 0


async def run(settings: Settings, reload: Reload) -> None:
    """Everything between the first directory and the last log line.

    Raises:
        Fault: the daemon cannot start.
    """
    listen_path = Path(settings.listen.removeprefix("unix://"))
    admin_path = Path(settings.state) / "admin.sock"
    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as undo:
        try:
            refuse_live_socket(listen_path)
        except FailedPrecondition:
            refuse_held_root(Path(settings.root))  # the better reason, if it is that
            raise
        host = await assembly.build(settings, undo)
        await networks.prepare(host)
        await serve(host, listen_path, admin_path, undo)
        watch_signals(host, reload, stopping)
        host.tasks.spawn("recovery", recover(host))
        host.tasks.spawn("confine by AppArmor", host.apparmor.load())
        host.tasks.spawn("warm the seccomp profile", asyncio.to_thread(warm_profile, host))
        host.tasks.spawn("watchdog", feed_watchdog())
        host.tasks.spawn("pool", host.pool.keep_full())
        host.tasks.spawn("look for leaks", watch_leaks(host))
        host.tasks.spawn("collect layers", collect_layers(host))
        gc.collect()
        gc.freeze()  # what is there by now stays: the collector need not walk it in the middle of a request
        notify("READY=1")
        LOG.info("serving on %s, instance %s, root %s", listen_path, host.instance, host.root)
        await stopping.wait()
        notify("STOPPING=1")
        LOG.info("stopping; %d pods live on", sum(not each.stopped for each in host.store.sandboxes.values()))


async def serve(host: Host, listen_path: Path, admin_path: Path, undo: contextlib.AsyncExitStack) -> None:
    """Both sockets: the CRI's and the command line's."""

    def observe(name: str, code: str, seconds: float) -> None:
        host.metrics.operation(name, code, seconds)
        if not is_quiet(name):
            host.pool.touch()

    interceptor = Interceptor(host.ready, observe)
    for path, mode, tables in (
        (listen_path, 0o660, cri_tables(host)),
        (admin_path, 0o600, [(admin_pb2.DESCRIPTOR.services_by_name["Admin"], admin.handlers(host))]),
    ):
        server = new_server()
        for service, functions in tables:
            handlers = plan_handlers(service, functions, interceptor.wrap)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        undo.push_async_callback(server.stop, GRACE)
        await listen(server, path, mode)
        undo.callback(remove_socket, path)
    undo.callback(begin_to_stop, host)


def begin_to_stop(host: Host) -> None:
    """Before the servers wait for their RPCs and streams."""
    host.stopping = True
    host.events.close()


def cri_tables(host: Host) -> list[tuple[ServiceDescriptor, dict[str, Handler]]]:
    by_name = api_pb2.DESCRIPTOR.services_by_name
    return [
        (by_name["RuntimeService"], services.bind(services.RUNTIME_SERVICE, host)),
        (by_name["ImageService"], services.bind(services.IMAGE_SERVICE, host)),
    ]


def watch_signals(host: Host, reload: Reload, stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, apply_reload, host, reload)


def apply_reload(host: Host, reload: Reload) -> None:
    """SIGHUP: log level and registry settings; the rest is named and waits for a restart."""
    try:
        new = reload()
    except Fault as fault:
        LOG.error("reload refused, the old settings stay: %s", fault)
        return
    changes = compare(host.settings, new)
    logs.set_level(new.log_level)
    host.images.set_registry(new.registry)
    host.settings = assembly.with_reloaded(host.settings, new)
    LOG.info("reloaded: %s", ", ".join(changes.reload) or "nothing changed")
    if changes.restart:
        LOG.warning("needs a restart: %s", ", ".join(changes.restart))


def warm_profile(host: Host) -> None:
    """Have the programs of pause and of an ordinary container compiled before the first asks."""
    for capabilities in ((), plan_capabilities((), (), privileged=False, bounding=host.facts.bounding)["bounding"]):
        try:
            host.profiles.default(capabilities)
        except Fault as fault:
            LOG.warning("the default seccomp profile cannot be compiled: %s", fault)


async def watch_leaks(host: Host) -> None:
    """For the gauge alone: nothing is removed while the daemon runs, for it would hide a mistake of ours."""
    await host.ready.wait()
    while True:
        await fsck(host, repair=False)
        await asyncio.sleep(LEAKS_EVERY)


async def collect_layers(host: Host) -> None:
    """Of pulls that failed and were not tried again: until then a new try goes on with what is whole."""
    while True:
        await asyncio.sleep(COLLECT_EVERY)
        try:
            await host.images.collect()
        except (Fault, OSError) as fault:
            LOG.warning("layers that no image has stay: %s", words_of(fault))


async def feed_watchdog() -> None:
    seconds = watchdog_seconds()
    while seconds is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)
