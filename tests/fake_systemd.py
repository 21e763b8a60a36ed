"""A systemd for tests: it answers on a socket as the real one does, and keeps what it was told.

It speaks D-Bus with jeepney, in the running loop, as the bus (``private`` false: a Hello and a
match come first) or as systemd's own socket. With a ``root``, a directory of a cgroup v2 tree, it
makes and removes the cgroups of units and moves their processes, as far as scopes need that.

Invariant: the word that a job has ended comes from it only to whoever has subscribed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fnmatch
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, HeaderFields, Message, Parser, new_error, new_method_return, new_signal

from runtime.systemd.bus import SYSTEMD
from runtime.systemd.names import slice_path
from runtime.systemd.units import MANAGER, OBJECT

ADDRESS = DBusAddress(OBJECT, bus_name=SYSTEMD, interface=MANAGER)


@dataclass
class FakeSystemd:
    """``units`` are those that are there, with their properties; ``calls`` what came, in order. ``results``
    is how jobs of a unit end (``done``), ``errors`` what methods answer instead: name and words; ``silent`` methods
    never answer. ``early``: a job's end is told before the call is answered."""

    private: bool = False
    root: Path | None = None
    units: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    errors: dict[str, tuple[str, str]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    early: bool = False
    reset: list[str] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    jobs: int = 0
    served: int = 0

    @contextlib.asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[str]:
        """The path of its socket."""
        server = await asyncio.start_unix_server(self._serve, str(path))
        try:
            yield str(path)
        finally:
            server.close()
            self.hang_up()
            while self.served:
                await asyncio.sleep(0)
            path.unlink()

    def hang_up(self) -> None:
        """End every connection."""
        for writer in self.writers:
            writer.close()
        self.writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.served += 1
        try:
            await self._talk(reader, writer)
        finally:
            self.served -= 1
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = await reader.readline()
        if not words.startswith(b"\0AUTH EXTERNAL ") or "AUTH" in self.errors:
            writer.write(b"REJECTED EXTERNAL\r\n")
            return
        writer.write(b"OK 1234deadbeef\r\n")
        if await reader.readline() != b"BEGIN\r\n":
            return
        parser = Parser()
        while data := await reader.read(65536):
            for message in parser.feed(data):
                self._answer(message, writer)

    def _answer(self, message: Message, writer: asyncio.StreamWriter) -> None:
        member = message.header.fields[HeaderFields.member]
        self.calls.append(member)
        if member in self.silent:
            return
        name, words = self.errors.get(member, ("", ""))
        if self.private and member in ("Hello", "AddMatch"):
            name, words = "org.freedesktop.DBus.Error.UnknownObject", "Unknown object '/org/freedesktop/DBus'."
        signature, ended = "", ""
        body: tuple[Any, ...] = ()
        if not name:
            name, words, signature, body, ended = self._carry_out(member, tuple(message.body))
        answer = new_error(message, name, "s", (words,)) if name else new_method_return(message, signature, body)
        told = [self._job_removed(body[0], ended)] if ended else []
        for each in [*told, answer] if self.early else [answer, *told]:
            writer.write(each.serialise(len(self.calls)))

    def _job_removed(self, job: str, unit: str) -> Message:
        body = (self.jobs, job, unit, self.results.get(unit, "done"))
        return new_signal(ADDRESS, "JobRemoved", "uoss", body)

    def _carry_out(self, member: str, body: tuple[Any, ...]) -> tuple[str, str, str, tuple[Any, ...], str]:
        """Name and words of an error, or signature and arguments of the answer and the unit whose job ends."""
        done: tuple[str, str, str, tuple[Any, ...], str] = ("", "", "", (), "")
        if member in ("Subscribe", "Hello", "AddMatch"):
            return ("", "", "s", (":1.7",), "") if member == "Hello" else done
        if member == "ListUnitsByPatterns":
            found = [name for name in self.units if any(fnmatch.fnmatch(name, pattern) for pattern in body[1])]
            rest = ("", "loaded", "active", "running", "", "/u", 0, "", "/j")
            return "", "", "a(ssssssouso)", ([(name, *rest) for name in found],), ""
        unit = body[0]
        if member == "ResetFailedUnit":
            self.reset.append(unit)
        if member == "StartTransientUnit":
            if unit in self.units:
                return f"{SYSTEMD}.UnitExists", f"Unit {unit} was already loaded or has a fragment file.", "", (), ""
            self.start(unit, {name: value for name, (_, value) in body[2]})
        elif unit not in self.units:
            return f"{SYSTEMD}.NoSuchUnit", f"Unit {unit} not loaded.", "", (), ""
        elif member == "SetUnitProperties":
            self.units[unit].update({name: value for name, (_, value) in body[2]})
        elif member == "StopUnit":
            self.stop(unit)
        if member in ("StartTransientUnit", "StopUnit"):
            self.jobs += 1
            return "", "", "o", (f"{OBJECT}/job/{self.jobs}",), unit
        return done

    def start(self, unit: str, properties: dict[str, Any]) -> None:
        self.units[unit] = properties
        if self.root is not None:
            folder = self.folder(unit)
            folder.mkdir(parents=True)
            for pid in properties.get("PIDs", ()):
                (folder / "cgroup.procs").write_text(str(pid))

    def stop(self, unit: str) -> None:
        folder = self.folder(unit) if self.root is not None else None
        del self.units[unit]
        if folder is None:
            return
        for each in sorted(folder.rglob("cgroup.procs")):
            for pid in each.read_text().split():
                os.kill(int(pid), signal.SIGTERM)
        for each in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            remove_emptied(each)
        remove_emptied(folder)
        if folder.parent != self.root and not [path for path in folder.parent.iterdir() if path.is_dir()]:
            folder.parent.rmdir()

    def folder(self, unit: str) -> Path:
        assert self.root is not None
        if unit.endswith(".slice"):
            return Path(f"{self.root}{slice_path(unit)}")
        return Path(f"{self.root}{slice_path(self.units[unit]['Slice'])}/{unit}")


def remove_emptied(folder: Path) -> None:
    """rmdir(2) once what was told to end in it has; a test's own timeout bounds it."""
    while True:
        try:
            return folder.rmdir()
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            os.sched_yield()
