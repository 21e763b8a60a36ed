"""``crisp-default``: what AppArmor lets a container do that asks for nothing else.

``apparmor`` loads it. It stands beside the other walls (capabilities, seccomp, masked and
read-only mounts) and does not count on them: what the kernel as a whole has in /proc and /sys
is not written, nothing is mounted, and nobody outside is traced or signalled. Everything else,
files of the image and of volumes, the network, capabilities, is not its business.

Without includes, so that it depends on no file of the host. Source: apparmor.d(5).

Invariant: rules are denied by name of what they deny; a ``deny`` counts before all that is allowed.
"""

from __future__ import annotations

NAME = "crisp-default"

TEXT = f"""\
# Made and loaded by crisp when it starts; changes are lost then.
profile {NAME} flags=(attach_disconnected,mediate_deleted) {{
  file,
  network,
  capability,
  umount,
  unix,
  dbus,

  # The node's processes signal it, and it those that are confined alike.
  signal (receive) peer=unconfined,
  signal (send, receive) peer={NAME},
  ptrace (read, readby, trace, tracedby) peer={NAME},

  # The kernel's crypto by sockets, whose faults reach files that containers share.
  deny network alg,

  deny mount,

  # Files right in /proc, and its folders but for processes, sys/net and the System V limits in sys/kernel.
  deny /proc/[^0-9]* wklx,
  deny /proc/{{[^0-9s],s[^y],sy[^s],sysv}}*/** wklx,
  deny /proc/sys/{{[^kn],k[^e],n[^e]}}** wklx,
  deny /proc/sys/kernel/{{[^ms],m[^s],s[^eh],sec}}** wklx,
  deny /proc/{{kcore,kmem,mem,sysrq-trigger}} rwklx,

  # All of /sys but control groups, whose mount and owners decide.
  deny /sys/{{[^f],f[^s]}}** wklx,
  deny /sys/fs/{{[^c],c[^g],cg[^r]}}** wklx,
  deny /sys/{{firmware,kernel/security,devices/virtual/powercap}}/** rwklx,
}}
"""
