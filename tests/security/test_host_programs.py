"""Nothing of an image is run by crisp, and no program of the host can be written (R4)."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proto import api_pb2 as api
from runtime.pause import PAUSE
from runtime.program import LAUNCH
from tests.security.attacks import Attacked, Code, is_readonly, refused
from tests.security.images import Member, base_layer, build_loader, build_probe, symlink

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

PYTHON = os.path.realpath(sys.executable)
LOADER = "lib64/ld-linux-x86-64.so.2" if os.uname().machine == "x86_64" else "lib/ld-linux-aarch64.so.1"
HOSTILE = [
    Member("entry", content=b"#!/proc/self/exe\n"),
    Member("hostile-loader", content=build_loader()),
]


def hash_of(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


async def test_a_plain_program_of_the_host_is_overwritten_by_its_interpreter_line(tmp_path: Path) -> None:
    """CVE-2019-5736 as it was: a runtime that executes the entrypoint from where it is installed."""
    root, runtime = tmp_path / "root", tmp_path / "python"
    (root / "bin").mkdir(parents=True)
    (root / "proc").mkdir()
    (root / LOADER).parent.mkdir()
    for name, content in (("bin/probe", build_probe()), (LOADER, build_loader()), ("entry", HOSTILE[0].content)):
        (root / name).write_bytes(content)
        (root / name).chmod(0o755)
    shutil.copy(PYTHON, runtime)
    before = hash_of(str(runtime))
    weak = f"import os; os.chroot({str(root)!r}); os.execv('/entry', ['/entry'])"
    script = 'mount -t proc proc "$1/proc" && exec "$2" -S -c "$3"'
    ran = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", str(root), str(runtime), weak],
        env={"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "11\n", ran
    assert hash_of(str(runtime)) != before


@pytest.mark.parametrize("how", ["entrypoint", "exec"])
async def test_an_interpreter_line_cannot_write_the_runtime(how: str, crisp: Attacked) -> None:
    """CVE-2019-5736: `#!/proc/self/exe` reaches launch alone, on a read-only mount; it loads nothing of the image,
    and without a script it does nothing."""
    before = hash_of(PYTHON), hash_of(LAUNCH)
    name = await crisp.image([*HOSTILE, Member(LOADER, content=build_loader())])
    pod = await crisp.run_pod()
    if how == "entrypoint":
        said = await crisp.output(pod, crisp.attacker("/entry", image=name))
    else:
        id = await crisp.run(pod, crisp.attacker("/bin/probe", "swap", "/a", "/b", "1000", image=name))
        said = (await crisp.say(id, "/entry")).splitlines()
    assert said == []
    assert (hash_of(PYTHON), hash_of(LAUNCH)) == before


async def test_programs_of_crisp_are_on_read_only_mounts_for_whom_sees_them(crisp: Attacked) -> None:
    """CVE-2019-5736 from beside: a privileged container in the host's PID namespace opens /proc/PID/exe."""
    config = crisp.pod()
    config.linux.security_context.privileged = True
    config.linux.security_context.namespace_options.pid = api.NODE
    pod = await crisp.run_pod(config)
    attacker = crisp.attacker("sleep", "1000")
    attacker.linux.security_context.privileged = True
    attacker.linux.security_context.namespace_options.pid = api.NODE
    id = await crisp.run(pod, attacker)
    pids = {
        "monitor": crisp.monitor_pid(pod),
        "zygote": crisp.host.supervisor.zygote_pid,
        "pause": crisp.host.store.sandboxes.get(pod).pause_pid,
    }
    for pid in pids.values():
        assert is_readonly(f"/proc/{pid}/exe")
        assert await crisp.say(id, "probe", "overwrite", f"/proc/{pid}/exe") == str(-errno.EROFS)
    assert hash_of(PAUSE) == hash_of(f"/proc/{pids['pause']}/exe")
    plain = subprocess.Popen(["sleep", "100"])
    try:  # what an ordinary program is: writable, as soon as nobody executes it
        assert await crisp.say(id, "probe", "overwrite", f"/proc/{plain.pid}/exe") == str(-errno.ETXTBSY)
    finally:
        plain.kill()
        plain.wait()


POISON = b'import os\nos.mkdir("/canary")\n'
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


def poisoned_members() -> list[Member]:
    """What a process of the host would load if it resolved anything after it entered the root."""
    loader = build_loader()
    modules = [
        Member(f"{place}/{name}", content=POISON)
        for place in (f"usr/lib/{VERSION}", f"usr/local/lib/{VERSION}", sys.base_prefix.lstrip("/") + f"/lib/{VERSION}")
        for name in ("encodings/__init__.py", "encodings/idna.py", "pwd.py", "sitecustomize.py", "os.py")
    ]
    libraries = [
        Member(f"lib/{os.uname().machine}-linux-gnu/libnss_{name}.so.2", content=loader)
        for name in ("files", "compat", "dns")
    ]
    return [
        *(member for member in modules if len(member.name) <= 100),
        *libraries,
        Member("etc/nsswitch.conf", content=b"passwd: compat files\ngroup: compat files\n"),
        Member("etc/passwd", content=b"root:x:0:0::/root:/bin/sh\nuser:x:1234:1234::/:/bin/sh\n"),
        Member("etc/ld.so.preload", content=b"/hostile-loader\n"),
        Member("usr/bin/unpigz", content=b"#!/bin/sh\nmkdir /canary\n"),
        symlink("sitecustomize.py", f"usr/lib/{VERSION}/os.py"),
    ]


async def test_poisoned_modules_and_libraries_of_an_image_are_never_loaded(crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2019-14271, CVE-2018-15664, CVE-2022-1227, CVE-2026-41567: code of the image as the runtime's own."""
    package = tmp_path / "encodings_of_the_image"
    package.mkdir()
    (package / "__init__.py").write_bytes(POISON.replace(b"/canary", str(tmp_path / "canary").encode()))
    weak = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import encodings_of_the_image"
    subprocess.run([sys.executable, "-c", weak], check=True)
    assert (tmp_path / "canary").is_dir()

    name = await crisp.image(poisoned_members(), {"WorkingDir": f"/usr/lib/{VERSION}"})
    pod = await crisp.run_pod()
    config = crisp.attacker("/bin/probe", "swap", "/a", "/b", "1000", image=name)
    config.linux.security_context.run_as_username = "user"
    id = await crisp.run(pod, config)
    assert os.stat(f"/proc/{crisp.pid(id)}").st_uid == 1234
    for _ in range(3):
        assert (await crisp.say(id, "/bin/probe", "fds")).split() == ["0", "1", "2"]
    await refused(crisp.exec(id, "/no/such/program"), Code.FAILED_PRECONDITION, "no such file")
    assert not os.path.exists(f"/proc/{crisp.pid(id)}/root/canary")
    mapped = Path(f"/proc/{crisp.monitor_pid(pod)}/maps").read_text()
    assert "libnss" not in mapped and "hostile" not in mapped


async def test_a_base_image_is_what_the_attacks_build_on(crisp: Attacked) -> None:
    """The probe works: else every test that sees it fail would be worth nothing."""
    assert len(base_layer()) > 1 << 20
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000"))
    assert await crisp.call(id, 39 if os.uname().machine == "x86_64" else 172) > 1  # getpid
    assert await crisp.say(id, "probe", "overwrite", "/etc/passwd") == "11"
