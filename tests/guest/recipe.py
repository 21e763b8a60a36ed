"""What the guest's root file system is made of, as data; ``image`` makes it.

A Debian of the smallest size with systemd as PID 1, Debian's kernel and AppArmor as Debian
configures them. udev runs but does not look for old hardware, and nothing that a first boot,
a login or a schedule would start is there: under emulation each unit costs a tenth of a second.

Invariant: ``key`` changes with everything that the root file system is made from, but for the
versions of Debian's packages.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LOCK = ROOT / "deploy/requirements-dev.lock"
UNIT = ROOT / "deploy/crisp.service"

SUITE = "bookworm"
KERNEL = "linux-image-6.12-cloud-amd64"
"""Has NVMe, ext4 and the virtio console built in, so no initial ramdisk is needed."""

PACKAGES = (
    *("systemd-sysv", "dbus", "udev", "kmod", "procps", "util-linux", "iproute2"),
    *("apparmor", "sudo", "nftables", "libseccomp2", "busybox", "python3"),  # sudo: critest loads profiles by it
)
LEFT_OUT = ("doc", "man", "locale", "info", "lintian")
"""Folders of /usr/share."""

UNPACKED = ("net", "fs", "lib", "crypto", "drivers/net", "drivers/block", "drivers/virtio")
"""Folders of kernel modules that are not compressed in the guest: it would take a second for each."""

MODULES = ("virtio_blk", "virtio_net", "overlay", "bridge", "veth")
MASKED = (
    # Compiles profiles of programs that are not here; the kernel has AppArmor on without it.
    "apparmor.service",
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "getty.target", "getty@tty1.service", "serial-getty@ttyS0.service"),
    *("systemd-udev-trigger.service", "systemd-random-seed.service", "systemd-pstore.service"),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-journal-flush.service"),
    *("systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "sys-fs-fuse-connections.mount"),
    *("systemd-timesyncd.service", "systemd-networkd-wait-online.service", "systemd-logind.service"),
    *("modprobe@drm.service", "modprobe@dm_mod.service", "modprobe@loop.service", "modprobe@configfs.service"),
    *("sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-sysusers.service"),
)
ENABLED = ("guest-disks.service", "guest-agent.service", "crisp.service", "systemd-networkd.service")

PLACES = {"sources": "/src", "environment": "/opt/crisp"}

FILES = {
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost guest\n::1 localhost\n",
    "etc/fstab": "",
    "etc/resolv.conf": "",
    "etc/machine-id": "c4157c4157c4157c4157c4157c4157c4\n",
    "etc/modules-load.d/guest.conf": "\n".join(MODULES) + "\n",
    "etc/systemd/journald.conf.d/guest.conf": "[Journal]\nStorage=volatile\nRateLimitBurst=0\n",
    "etc/systemd/network/uplink.network": (
        "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nIPv6AcceptRA=no\n"
    ),
    # By labels, for the kernel finds disks in any order. The one with the swap is turned on by tests.
    "etc/systemd/system/guest-disks.service": (
        "[Unit]\nDefaultDependencies=no\nBefore=crisp.service guest-agent.service\n"
        "After=systemd-remount-fs.service systemd-modules-load.service\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=mount -t ext4 -o ro LABEL=sources /src\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
    # Tests are its children: they make cgroups, and what they start lives in its own.
    "etc/systemd/system/guest-agent.service": (
        "[Unit]\nDefaultDependencies=no\nAfter=systemd-remount-fs.service\n"
        "[Service]\nExecStart=/usr/bin/python3 -S /opt/agent.py\nWorkingDirectory=/\nDelegate=yes\n"
        "TasksMax=infinity\nKillMode=process\n[Install]\nWantedBy=multi-user.target\n"
    ),
    # Under emulation it takes half a minute to start, and minutes where the machine is busy.
    "etc/systemd/system/crisp.service.d/slow.conf": "[Service]\nTimeoutStartSec=600\nWatchdogSec=600\n",
    "opt/crisp/bin/crisp": (
        "#!/opt/crisp/bin/python\nimport sys\n\nfrom cri.__main__ import main\n\nsys.exit(main())\n"
    ),
}
EXECUTABLE = ("opt/crisp/bin/crisp",)

SOURCES = ("cri", "network", "proto", "runtime", "tests", "deploy", "pyproject.toml", "hatch_build.py")
"""What of the checkout is on the second disk."""


def find_obstacle() -> str:
    """Why this machine cannot have the guest; "" if it can."""
    return "" if platform.machine() == "x86_64" else f"the guest is an x86_64 machine, this is {platform.machine()}"


def key() -> str:
    """Names the image: 16 hex digits."""
    inputs = [HERE / "recipe.py", HERE / "image.py", HERE / "agent.py", LOCK, UNIT]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
