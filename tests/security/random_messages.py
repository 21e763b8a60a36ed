"""Random messages of a protobuf type: right in every type, and plausible often enough to get far.

``messages`` walks the descriptors, so that it knows every field that the API has. What is likely
for a field goes by the field's name: a made-up path gets nowhere, ``/dev/null`` does.

Invariant: paths of the host that may be made or written lie below ``SCRATCH``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from tests.security.attacks import IMAGE

M = TypeVar("M", bound=Message)
Draw = Callable[[st.SearchStrategy[Any]], Any]

SCRATCH = f"{tempfile.gettempdir()}/crisp-random"
"""The only directory of the host that requests name for something to be made in it."""

FIELDS = 5
"""Of one message at most as many are set."""

HOST_PATHS = (
    *(f"{SCRATCH}/{name}" for name in ("directory", "file", "pipe", "link", "missing", "missing/below", "shared")),
    "/dev/null",
    "/proc/self/ns/net",
    "/etc/hostname",
    "relative",
    f"{SCRATCH}/../..",
    "",
)
CONTAINER_PATHS = (
    "/a",
    "/a/b",
    "/etc/hosts",
    "/dev/x",
    "/proc",
    "/proc/meminfo",
    "/sys/x",
    "/",
    "a",
    "/a/../b",
    "/bin/sh",
)
TEXTS: dict[str, tuple[str, ...]] = {
    "image": (IMAGE, IMAGE, IMAGE, "nowhere.local/none", "../x", ""),
    "image_sub_path": ("", "etc", "../x", "/etc"),
    "name": ("a", "a_b", "b" * 253, "c"),
    "namespace": ("default", "a_b"),
    "uid": ("u", "b_c"),
    "hostname": ("h", "h.example", "h" * 65, "h\n"),
    "log_directory": (f"{SCRATCH}/logs", f"{SCRATCH}/link", f"{SCRATCH}/file", "relative", "/a/../b"),
    "log_path": ("main/0.log", "a.log", "../x", "", "x" * 300),
    "working_dir": ("/", "/tmp", "/made/here", "/bin/sh", "/proc/self/fd/1", "relative"),
    "command": ("sleep", "1000", "/bin/sh", "", "\n"),
    "args": ("1000", "", "\n"),
    "host_path": HOST_PATHS,
    "container_path": CONTAINER_PATHS,
    "permissions": ("rwm", "r", "x", ""),
    "mount_options": ("noexec", "nodev", "nosuid", "suid", "ro", ""),
    "masked_paths": ("/proc/keys", "/sys/firmware", "/etc", "/none", "relative"),
    "readonly_paths": ("/proc/sys", "/etc", "/none", "relative"),
    "key": ("A", "HOME", "PATH", "A=B", ""),
    "cpuset_cpus": ("0", "0-1", "8000", "3-1", "x"),
    "cpuset_mems": ("0", "9", "x"),
    "page_size": ("2MB", "1GB", "4KB", "3MB", "x"),
    "cgroup_parent": ("", "/crisp-random", "/crisp-random/a", "/", "/a/../b", "/x.slice", "relative"),
    "run_as_username": ("root", "nobody", "none", "0", "1000", "-1", "a:b"),
    "add_capabilities": ("CHOWN", "ALL", "SYS_ADMIN", "CAP_NET_RAW", "NONE", ""),
    "drop_capabilities": ("CHOWN", "ALL", "cap_chown", "NONE"),
    "add_ambient_capabilities": ("CHOWN", "NONE"),
    "localhost_ref": ("", "/none.json", f"{SCRATCH}/file", f"{SCRATCH}/directory", f"{SCRATCH}/pipe", "relative"),
    "target_id": ("", "none", "0" * 64),
    "servers": ("10.0.0.10", "::1", "x"),
    "searches": ("svc.local", "a b"),
    "options": ("ndots:5", "", "\n"),
    "host_ip": ("", "127.0.0.1", "0.0.0.0", "::", "fe80::1", "x"),
    "runtime_handler": ("", "crisp", "kata"),
}
KEYS: dict[str, tuple[str, ...]] = {
    "sysctls": ("net.ipv4.ip_forward", "net/ipv4/ip_unprivileged_port_start", "kernel.shm_rmid_forced", "kernel.sem",
                "fs.mqueue.msg_max", "net.core.somaxconn", "net.ipv4.none", "vm.swappiness", "", "../x"),
    "unified": ("memory.high", "memory.max", "pids.max", "cpu.weight", "io.max", "cgroup.procs", "none.x", "../x"),
    "annotations": ("kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth", "a", "org.systemd.property.X"),
}  # fmt: skip
VALUES = ("1", "0", "max", "-1", "65536", "10M", "1 2 3 4", "x", "", "9" * 40)
NUMBERS: dict[str, tuple[int, ...]] = {
    "container_port": (80, 81, 0, 65536),
    "host_port": (0, 8080, 8081, 65536),
    "oom_score_adj": (0, -997, 1000, 1001),
    "cpu_period": (0, 100_000, 1000, 999),
    "cpu_quota": (0, -1, 1000, 50_000),
    "cpu_shares": (0, 2, 1024, 262_144, 262_145),
    "length": (1, 65536, 0),
    "host_id": (65536, 131_072, 0),
}
ODD_NUMBERS = (0, 1, -1, 2, 1000, 4096, 65535, 1 << 20, 1 << 31, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))
ODD_TEXTS = ("", "a", "../..", "/", "a\0b", "a\nb", "é", "\u2028", "%s", "-", "x" * 5000)
RANGES = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
}


def texts(likely: tuple[str, ...]) -> st.SearchStrategy[str]:
    """One of the likely texts, mostly."""
    any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    odd = st.sampled_from(ODD_TEXTS)
    return odd | any_text if not likely else at_odds(st.sampled_from(likely), odd | any_text)


def at_odds(likely: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One value of sixteen is an odd one: a message of many fields is seldom right as a whole."""
    return st.integers(0, 15).flatmap(lambda number: likely if number else odd)


def numbers(field: FieldDescriptor) -> st.SearchStrategy[int]:
    least, most = RANGES[field.type]
    odd = [number for number in ODD_NUMBERS if least <= number <= most]
    likely = NUMBERS.get(field.name, (0, 1, 1000, 1 << 26))
    return at_odds(st.sampled_from(likely), st.sampled_from(odd) | st.integers(least, most))


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a field that is no message."""
    if field.type == FieldDescriptor.TYPE_STRING:
        likely = TEXTS.get(field.name, ())
        is_path = field.name in ("host_path", "log_directory", "localhost_ref")
        if is_path:  # no path of the host that is not known to be harmless
            return at_odds(st.sampled_from(likely), st.sampled_from(["a\0b", "/" + "x" * 5000]))
        return texts(likely)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=10) | st.sampled_from([b"x", b"", b"a\nb"])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return at_odds(st.sampled_from(known), st.sampled_from([-1, 7, 1 << 30]))
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return st.floats()
    return numbers(field)


@st.composite
def messages(draw: Draw, kind: type[M]) -> M:
    """A message of the type ``kind`` with some of its fields, and theirs."""
    message = kind()
    fill(draw, message)
    return message


def fill(draw: Draw, message: Message) -> None:
    fields = list(message.DESCRIPTOR.fields)
    if "metadata" in message.DESCRIPTOR.fields_by_name and not message.HasField("metadata"):
        message.metadata.name = draw(texts(TEXTS["name"]))  # type: ignore[attr-defined]
    for field in draw(st.lists(st.sampled_from(fields), max_size=FIELDS, unique_by=lambda field: field.number)):
        if is_map(field.message_type):
            keys = texts(KEYS.get(field.name, ("a", "b")))
            entries = draw(st.dictionaries(keys, texts(VALUES), max_size=2))
            getattr(message, field.name).update(entries)
        elif field.is_repeated and field.message_type is not None:
            for _ in range(draw(st.integers(1, 2))):
                fill(draw, getattr(message, field.name).add())
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(scalars(field), max_size=3)))
        elif field.message_type is not None:
            if field.name == "windows" and draw(st.integers(0, 19)):
                continue  # refused as a whole
            getattr(message, field.name).SetInParent()
            fill(draw, getattr(message, field.name))
        else:
            setattr(message, field.name, draw(scalars(field)))


def is_map(kind: Descriptor | None) -> bool:
    return kind is not None and kind.GetOptions().map_entry
