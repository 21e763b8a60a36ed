"""CNI plugins of the tests' own: one program under any number of names, which does as it is told.

Its ADD "leases" an address by a file that DEL removes, so that a test can see what is left. What
it was told it writes down. How it misbehaves is said beside it, by command.

Invariant: it needs nothing but the system's Python, and changes nothing outside of its folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAM = """\
#!@python -IS
import json, os, signal, subprocess, sys, time
here, name = os.path.split(os.path.abspath(sys.argv[0]))
command = os.environ["CNI_COMMAND"]
config = json.loads(sys.stdin.buffer.read())
call = {"type": name, "command": command, "environment": dict(os.environ), "config": config,
        "group": os.getpgrp() == os.getpid(), "cwd": os.getcwd(),
        "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1]}
try:
    behaviour = json.load(open(here + "/behaviour.json"))
except FileNotFoundError:
    behaviour = {}
how = behaviour.get(name + " " + command, "")
if "seed" in behaviour and not how:
    import hashlib
    arguments = dict(part.partition("=")[::2] for part in os.environ.get("CNI_ARGS", "").split(";"))
    ours = ":".join((name, command, arguments.get("K8S_POD_NAME", "")))
    with open(here + "/tries/" + ours, "ab") as file:
        file.write(b".")
        file.flush()
        key = "%s:%s:%d" % (behaviour["seed"], ours, os.fstat(file.fileno()).st_size)
    chance = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    if chance % behaviour["one in"] == 0:
        faults = behaviour["faults"].get(command, ["error"])
        how = faults[chance // behaviour["one in"] % len(faults)]
with open(here + "/calls", "a") as file:
    file.write(json.dumps({**call, "how": how}) + "\\n")
if how == "error before all":
    sys.exit(3)
lease = here + "/leases/" + name + "-" + os.environ.get("CNI_CONTAINERID", "")
if command == "ADD":
    open(lease, "w").close()
if how == "hang":
    subprocess.Popen(["sleep", "1000"])
    sys.stderr.write("waiting for a server\\n")
    sys.stderr.flush()
    time.sleep(1000)
elif how == "hang once it is leased":
    os.rename(here + "/behaviour.json", here + "/behaved.json")
    time.sleep(1000)
elif how == "error":
    sys.stderr.write("a line\\nand another\\n")
    error = {"code": 7, "msg": "no more addresses", "details": "in the pool"}
    print(json.dumps({"cniVersion": config["cniVersion"], **error}))
    sys.exit(1)
elif how == "garbage":
    print("<html>")
elif how == "no result":
    print(json.dumps({"cniVersion": "9.9.9"}))
elif how == "huge":
    os.write(1, b"x" * 100) and [os.write(1, b"x" * 65536) for _ in range(64)]
elif how == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "leave a child":
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
elif how == "no address":
    print(json.dumps({"cniVersion": config["cniVersion"], "ips": []}))
elif how in ("", "error after all"):
    if command == "DEL" and os.path.exists(lease):
        os.unlink(lease)
    if command == "GC":
        valid = {each["containerID"] for each in config["cni.dev/valid-attachments"]}
        for each in os.listdir(here + "/leases"):
            if each.startswith(name + "-") and each.partition("-")[2] not in valid:
                os.unlink(here + "/leases/" + each)
    if command == "ADD":
        result = config.get("prevResult") or {
            "interfaces": [{"name": "host0"}, {"name": "eth0", "sandbox": os.environ["CNI_NETNS"]}],
            "ips": [{"address": "10.9.8.7/24", "gateway": "10.9.8.1", "interface": 1},
                    {"address": "fd09::7/64", "interface": 1}],
        }
        result["cniVersion"] = config["cniVersion"]
        print(json.dumps(result))
    if how:
        sys.exit(4)
"""

FAULTS = {
    "ADD": ["error", "error before all", "error after all", "garbage", "no result", "crash", "no address"],
    "DEL": ["error", "error before all", "error after all", "crash"],
}
"""What goes wrong with :meth:`FakePlugins.fail_by_chance`. A DEL that says nothing wrong has freed all."""


class FakePlugins:
    """``folder`` holds the programs, ``conf_dir`` the configurations."""

    def __init__(self, folder: Path, conf_dir: Path, names: Sequence[str] = ("first", "second")) -> None:
        self.folder, self.conf_dir, self.names = folder, conf_dir, names
        (folder / "leases").mkdir(parents=True)
        for name in names:
            program = folder / name
            program.write_text(PROGRAM.replace("@python", sys.executable))
            program.chmod(0o755)

    def conflist(self, version: str = "1.1.0", name: str = "net", **changes: Any) -> dict[str, Any]:
        return {"cniVersion": version, "name": name, "plugins": [{"type": each} for each in self.names], **changes}

    def configure(self, document: Any = None, file: str = "10-net.conflist", **changes: Any) -> Path:
        """Write a configuration as an installer does, in one piece."""
        self.conf_dir.mkdir(exist_ok=True)
        path = self.conf_dir / file
        partial = self.conf_dir / f".{file}.new"
        partial.write_text(document if isinstance(document, str) else json.dumps(document or self.conflist(**changes)))
        partial.rename(path)
        return path

    def behave(self, how: Mapping[str, str]) -> None:
        """By plugin and command, such as ``first ADD``; what is not named goes well."""
        self._behave(dict(how))

    def fail_by_chance(self, seed: int, one_in: int) -> None:
        """From now on one call of ``one_in`` goes wrong. Which, and how, follows from the seed, the plugin, the
        command, the pod's name, and how often that was called before."""
        (self.folder / "tries").mkdir(exist_ok=True)
        self._behave({"seed": seed, "one in": one_in, "faults": FAULTS})

    def _behave(self, document: dict[str, Any]) -> None:
        partial = self.folder / "behaviour.new"
        partial.write_text(json.dumps(document))
        partial.rename(self.folder / "behaviour.json")

    def calls(self) -> list[dict[str, Any]]:
        """What all programs were told, in order; and forgotten with this."""
        path = self.folder / "calls"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in found]

    def order(self) -> list[str]:
        """``calls`` as plugin and command."""
        return [f"{call['type']} {call['command']}" for call in self.calls()]

    def leases(self) -> list[str]:
        return sorted(os.listdir(self.folder / "leases"))
