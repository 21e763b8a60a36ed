"""The guest: a machine emulated by qemu, and the commands that are carried out in it.

``image`` has its disks, ``agent`` carries out the commands inside. Whatever is written to the
disks is thrown away with the machine. It has a network card with nobody behind it (``restrict``).

Invariant: leaving ``booted`` ends the emulator.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.guest.agent import PORT
from tests.guest.image import Image

MEMORY = "1536M"
PROCESSORS = 2
KERNEL_OPTIONS = (
    "console=ttyS0 root=/dev/nvme0n1 rw rootwait rootfstype=ext4 panic=-1 quiet systemd.show_status=0 "
    "mitigations=off nokaslr audit=0 random.trust_cpu=1 net.ifnames=0 psi=1 apparmor=1 security=apparmor"
)
BOOT = 180.0
"""Seconds until the agent must have spoken."""

POWER_OFF = 60.0


class MachineFault(Exception):
    """The machine did not come up, or is gone; the message has the end of its console."""


class Machine:
    """``boot_seconds`` is what it took until the agent spoke."""

    def __init__(self, image: Image, sources: Path, folder: Path) -> None:
        self._console, self._said = folder / "console", folder / "qemu"
        address = folder / "agent"
        began = time.monotonic()
        with open(self._said, "wb") as said:
            self._process = subprocess.Popen(
                plan_command(image, sources, self._console, address),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            self._socket = self._connect(address, began + BOOT)
            self._lines = self._socket.makefile("rb")
            self._next(began + BOOT - time.monotonic())
        except BaseException:
            self.kill()
            raise
        self.boot_seconds = time.monotonic() - began

    def _connect(self, address: Path, deadline: float) -> socket.socket:
        while time.monotonic() < deadline and self._process.poll() is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(address))
                return connection
            except OSError:
                connection.close()
                time.sleep(0.05)
        raise MachineFault(f"the emulator did not begin: {self.tail()}")

    def _next(self, timeout: float) -> dict[str, object]:
        """The agent's next message."""
        self._socket.settimeout(timeout)
        try:
            line = self._lines.readline()
        except OSError as error:
            raise MachineFault(f"the agent said nothing for {timeout:.0f} s: {self.tail()}") from error
        if not line:
            raise MachineFault(f"the machine ended: {self.tail()}")
        message: dict[str, object] = json.loads(line)
        return message

    def run(self, command: Sequence[str], timeout: float, hear: Callable[[str], object], **environment: str) -> int:
        """Carry ``command`` out in the guest; its status. ``hear`` gets its output as it comes.

        Raises:
            MachineFault: the machine has gone or does not answer any more.
        """
        asked = {"run": list(command), "timeout": timeout, "environment": environment}
        self._socket.sendall(json.dumps(asked).encode() + b"\n")
        while True:
            answer = self._next(timeout + 30)
            if "status" in answer:
                return int(str(answer["status"]))
            hear(str(answer["output"]))

    def power_off(self) -> None:
        """As an operator does; kill it if it takes too long."""
        with contextlib.suppress(MachineFault, OSError, subprocess.TimeoutExpired):
            self.run(["systemctl", "poweroff", "--no-block"], 30, str)
            self._process.wait(POWER_OFF)
        self.kill()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def tail(self) -> str:
        """The last lines of the emulator and of the console."""
        texts = [path.read_text(errors="replace") for path in (self._said, self._console) if path.exists()]
        return "\n".join(line for text in texts for line in text.splitlines()[-30:])


@contextlib.contextmanager
def booted(image: Image, make_sources: Callable[[Path], None], say: Callable[[str], None]) -> Iterator[Machine]:
    """A machine whose agent answers. It is tried once more if it does not come up, and that is said.

    Raises:
        MachineFault: it did not come up twice.
    """
    with tempfile.TemporaryDirectory(prefix="crisp-guest-") as folder:
        sources = Path(folder) / "sources.img"
        make_sources(sources)
        try:
            machine = Machine(image, sources, Path(folder))
        except MachineFault as fault:
            say(f"the first boot FAILED and is tried once more: {fault}")
            machine = Machine(image, sources, Path(folder))
        try:
            yield machine
        finally:
            machine.power_off()


def plan_command(image: Image, sources: Path, console: Path, agent: Path) -> list[str]:
    """The emulator's command line. The root has a controller of its own kind: the kernel gives disks of one
    kind their names in any order, and has to find this one without help."""
    disk = "if=none,format=raw,cache=unsafe,snapshot=on"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"),
        *("-m", MEMORY, "-smp", str(PROCESSORS), "-kernel", str(image.kernel), "-append", KERNEL_OPTIONS),
        *("-serial", f"file:{console}", "-device", "virtio-rng-pci"),
        *("-drive", f"{disk},id=root,file={image.root}", "-device", "nvme,drive=root,serial=root"),
        *("-drive", f"{disk},id=sources,file={sources}", "-device", "virtio-blk-pci,drive=sources"),
        *("-drive", f"{disk},id=swap,file={image.swap}", "-device", "virtio-blk-pci,drive=swap"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={agent},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=agent,name={PORT}"),
        *("-netdev", "user,id=uplink,restrict=on", "-device", "virtio-net-pci,netdev=uplink,romfile="),
    ]
