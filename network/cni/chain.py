"""The five operations of the CNI on the plugins of a network.

``provider`` decides when; ``plugin`` runs one program, ``environment``, ``capabilities`` and
``result`` say what it is told and has answered.

Invariant: ADD, CHECK, STATUS and GC go through the plugins in order and end with the first
that fails, but for GC, which tries all; DEL goes in reverse and ends with the first that fails,
for what a later plugin left may lead to an address that an earlier one would free.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Sequence
from typing import Any

from network.cni import versions
from network.cni.cache import Entry
from network.cni.capabilities import inject
from network.cni.conf import NetworkConf, PluginConf
from network.cni.environment import INTERFACE, plan_environment
from network.cni.plugin import Ended, run
from network.cni.result import Result, ResultError, parse
from runtime.errors import DeadlineExceeded, Fault, HostFault, ResourceExhausted

AT_ONCE = 16
"""Plugins that run at the same time, of all pods together."""

MIN_SECONDS = 0.05
"""Even where other plugins have used up an operation's time."""

STEPS = {
    "ADD": "attach the pod to the network",
    "DEL": "detach the pod from the network",
    "CHECK": "check the pod's network",
    "STATUS": "ask whether the network is ready",
    "GC": "collect the garbage of the network",
}
_WORDS = 1000


class Chain:
    """``folder`` is where the plugins are. Of one event loop."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._turns = asyncio.Semaphore(AT_ONCE)

    def find_all(self, conf: NetworkConf, command: str) -> None:
        """Raises HostFault for the first plugin that is not there."""
        for plugin in conf.plugins:
            self._find(plugin, command)

    async def add(self, entry: Entry, seconds: float) -> Result:
        """The last plugin's result, after ``seconds`` at most.

        Raises:
            DeadlineExceeded, ResourceExhausted, HostFault: with the plugin's own words.
        """
        result: Result | None = None
        deadline = _Deadline(seconds)
        for plugin in entry.conf.plugins:
            ended = await self._call("ADD", entry, plugin, deadline.rest(), result)
            result = self._result(entry.conf, plugin, ended, result)
        return result or Result()

    async def delete(self, entry: Entry, seconds: float) -> None:
        """Raises as ``add``. A namespace that is gone is not named."""
        known = entry.result if versions.has_check(entry.conf.version) else None
        deadline = _Deadline(seconds)
        for plugin in reversed(entry.conf.plugins):
            await self._call("DEL", entry, plugin, deadline.rest(), known)

    async def check(self, entry: Entry, seconds: float) -> None:
        """Raises as ``add``, if something of the pod's network is not as it was made. Nothing is
        checked where the network does not have it or no result is known."""
        if entry.conf.disable_check or not versions.has_check(entry.conf.version) or entry.result is None:
            return
        deadline = _Deadline(seconds)
        for plugin in entry.conf.plugins:
            await self._call("CHECK", entry, plugin, deadline.rest(), entry.result)

    async def status(self, conf: NetworkConf, seconds: float) -> None:
        """Raises as ``add``, if a plugin is missing or says that it cannot add a pod."""
        self.find_all(conf, "STATUS")
        if not versions.has_status(conf.version):
            return
        deadline = _Deadline(seconds)
        for plugin in conf.plugins:
            await self._ask("STATUS", conf, plugin, deadline.rest(), {})

    async def collect(self, conf: NetworkConf, valid: Sequence[str], seconds: float) -> None:
        """Have what belongs to none of the sandbox ids in ``valid`` freed. Raises as ``add``, the first failure."""
        if conf.disable_gc or not versions.has_status(conf.version):
            return
        attachments = [{"containerID": each, "ifname": INTERFACE} for each in valid]
        failures: list[Fault] = []
        deadline = _Deadline(seconds)
        for plugin in conf.plugins:
            try:
                more = {"cni.dev/valid-attachments": attachments}
                await self._ask("GC", conf, plugin, deadline.rest(), more)
            except Fault as fault:
                failures.append(fault)
        if failures:
            raise failures[0]

    async def _call(
        self, command: str, entry: Entry, plugin: PluginConf, seconds: float, previous: Result | None
    ) -> Ended:
        config = plan_config(entry.conf, plugin)
        config |= plan_pod_config(entry, plugin, previous)
        netns = entry.netns if command != "DEL" or is_namespace(entry.netns) else ""
        environment = plan_environment(
            command, self._folder, container=entry.sandbox_id, netns=netns, arguments=entry.arguments
        )
        return await self._run(command, plugin, environment, config, seconds)

    async def _ask(
        self, command: str, conf: NetworkConf, plugin: PluginConf, seconds: float, more: dict[str, Any]
    ) -> Ended:
        environment = plan_environment(command, self._folder)
        return await self._run(command, plugin, environment, {**plan_config(conf, plugin), **more}, seconds)

    async def _run(
        self, command: str, plugin: PluginConf, environment: dict[str, str], config: dict[str, Any], seconds: float
    ) -> Ended:
        program = self._find(plugin, command)
        end = asyncio.get_running_loop().time() + seconds
        try:
            await self._take_turn(seconds)
            try:
                rest = max(MIN_SECONDS, end - asyncio.get_running_loop().time())
                ended = await run(program, environment, json.dumps(config).encode(), rest)
            finally:
                self._turns.release()
        except (DeadlineExceeded, ResourceExhausted) as fault:
            raise type(fault)(fault.message, step=STEPS[command], object=_name(plugin)) from fault
        except HostFault as fault:
            raise _fault(command, plugin, str(fault)) from fault
        if ended.code:
            raise _fault(command, plugin, error_words(ended))
        return ended

    async def _take_turn(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._turns.acquire()
        except TimeoutError:
            words = f"did not begin within {seconds:.3g} s: {AT_ONCE} other plugins run"
            raise DeadlineExceeded(words) from None

    def _find(self, plugin: PluginConf, command: str) -> str:
        """The program; its name has no slash (``network.cni.conf``)."""
        path = f"{self._folder}/{plugin.type}"
        try:
            mode = os.stat(path).st_mode
        except OSError:
            raise _fault(command, plugin, f"is not in {self._folder}") from None
        if not stat.S_ISREG(mode) or not mode & 0o111:
            raise _fault(command, plugin, f"is no program in {self._folder}")
        return path

    def _result(self, conf: NetworkConf, plugin: PluginConf, ended: Ended, previous: Result | None) -> Result:
        if not ended.output.strip() and previous is not None:
            return previous
        try:
            return parse(json.loads(ended.output), conf.version)
        except ResultError as error:
            raise _fault("ADD", plugin, f"its result {error}") from error
        except (ValueError, RecursionError) as error:
            shown = _clean(ended.output[:100].decode(errors="replace"))
            raise _fault("ADD", plugin, f"its result is not JSON: {shown!r}") from error


def plan_config(conf: NetworkConf, plugin: PluginConf) -> dict[str, Any]:
    """What each operation tells a plugin."""
    return {**plugin.raw, "name": conf.name, "cniVersion": conf.version}


def plan_pod_config(entry: Entry, plugin: PluginConf, previous: Result | None) -> dict[str, Any]:
    """What it is told of a pod beside."""
    told: dict[str, Any] = {}
    if given := inject(plugin.capabilities, dict(entry.capabilities)):
        told["runtimeConfig"] = given
    if previous is not None:
        told["prevResult"] = previous.to_document(entry.conf.version)
    return told


def is_namespace(path: str) -> bool:
    """Whether a network namespace is pinned there: ``/proc/…/ns`` files are of nsfs, which has one device."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return found.st_dev == os.stat("/proc/self/ns/net").st_dev


def error_words(ended: Ended) -> str:
    """What a plugin that failed says: its error, else what it wrote."""
    how = f"was killed by signal {-ended.code}" if ended.code < 0 else f"ended with status {ended.code}"
    try:
        error = last_object(ended.output.decode())
        said = [_clean(str(error[key])) for key in ("msg", "details") if error.get(key)]
        code = f" (code {int(error['code'])})" if error.get("code") else ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        said, code = [_clean(ended.output[:_WORDS].decode(errors="replace"))], ""
    words = ": ".join(filter(None, said))
    parts = [words + code if words else how, f"it wrote: {_clean(ended.words)}" if ended.words else ""]
    return "; ".join(filter(None, parts))


def last_object(text: str) -> Any:
    """The last of the JSON values in ``text``: a plugin may have printed a result before its error.

    Raises:
        ValueError: there is something else.
    """
    decoder, found, rest = json.JSONDecoder(), None, text.strip()
    while rest:
        found, at = decoder.raw_decode(rest)
        rest = rest[at:].lstrip()
    return found


def _clean(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:_WORDS]


def _name(plugin: PluginConf) -> str:
    return f"plugin {plugin.type}"


def _fault(command: str, plugin: PluginConf, words: str) -> HostFault:
    return HostFault(words, step=STEPS[command], object=_name(plugin))


class _Deadline:
    """The plugins of one operation share its time."""

    def __init__(self, seconds: float) -> None:
        self._end = asyncio.get_running_loop().time() + seconds

    def rest(self) -> float:
        return max(MIN_SECONDS, self._end - asyncio.get_running_loop().time())
