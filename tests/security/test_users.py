"""Who a container runs as is exact, or the container is refused (R6, R7, R8)."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, refused, status_of
from tests.security.images import CHARACTER, FIFO, FILE, Member, symlink

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

ODD_NUMBERS = ("１", "+1", " 1", "1 ", "1_0", "-1", "²", "1\n", "4294967296", "2147483648", "4294967295", "٣")
ALIASES = "".join(f"{number}:x:0:0:root:/root:/bin/sh\n" for number in ODD_NUMBERS if "\n" not in number)
PASSWD = f"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n{ALIASES}"


async def test_careless_parsing_gives_odd_numbers_a_meaning() -> None:
    """CVE-2026-30892, CVE-2024-40635, CVE-2026-46680 as they were: what is no number is read as one, or as a name."""
    assert int("１") == int("+1") == int(" 1") == 1 and int("1_0") == 10 and int("٣") == 3
    assert "²".isdigit()
    assert int("4294967296") & 0xFFFFFFFF == 0  # a uid_t
    names = {line.split(":")[0]: line.split(":")[2] for line in PASSWD.splitlines()}
    assert names["4294967296"] == names["2147483648"] == "0"


@pytest.fixture(scope="module")
def aliases() -> list[Member]:
    """Files in which each odd number is a name of root's."""
    return [Member("etc/passwd", mode=0o644, content=PASSWD.encode())]


@pytest.mark.parametrize("user", ODD_NUMBERS)
async def test_an_odd_number_is_no_user_of_an_image_or_request(
    user: str, crisp: Attacked, aliases: list[Member]
) -> None:
    """CVE-2026-30892, CVE-2024-40635, CVE-2026-46680: even where the image's passwd has it as a name of root's."""
    pod = await crisp.run_pod()
    for spelled in (user, f"0:{user}", f"{user}:0"):
        name = await crisp.image(aliases, {"User": spelled})
        await refused(crisp.create(pod, crisp.attacker("id", image=name)), Code.FAILED_PRECONDITION)
    config = crisp.attacker("id", image=name)
    config.linux.security_context.run_as_username = user
    await refused(crisp.create(pod, config), Code.INVALID_ARGUMENT, "run_as_username")


@pytest.mark.parametrize(
    ("user", "uid", "gid"), [("1", 1, 0), ("0001", 1, 0), ("1000", 1000, 1000), ("user:7", 1000, 7)]
)
async def test_a_plain_number_is_exactly_itself(
    user: str, uid: int, gid: int, crisp: Attacked, aliases: list[Member]
) -> None:
    """CVE-2026-30892: "1" is uid 1, for the container and for a command in it."""
    name = await crisp.image(aliases, {"User": user})
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000", image=name))
    assert status_of(crisp.pid(id))["Uid"].split() == [str(uid)] * 4
    assert await crisp.say(id, "sh", "-c", "id -u; id -g") == f"{uid}\n{gid}"


async def test_a_name_is_not_guessed(crisp: Attacked, aliases: list[Member]) -> None:
    """CVE-2024-40635: a user or group that the image does not have is an error, never root."""
    pod = await crisp.run_pod()
    for user in ("nosuch", "user:nosuch", "nosuch:0", ":0", "user:", "../root", "root\nuser"):
        name = await crisp.image(aliases, {"User": user})
        await refused(crisp.create(pod, crisp.attacker("id", image=name)), Code.FAILED_PRECONDITION)


def databases(place: Path) -> dict[str, list[Member]]:
    (place / "passwd").write_text("victim:x:4321:4321::/:/bin/sh\n")
    hostile = f"{place}/passwd"
    chain = [symlink(f"link{n}", f"/link{n + 1}") for n in range(41)]
    return {
        "a link to the host": [symlink("etc/passwd", hostile)],
        "a link that climbs": [symlink("etc/passwd", f"../../../../../../../..{hostile}")],
        "a link by a magic link": [symlink("etc/passwd", f"/proc/1/root{hostile}")],
        "a pipe": [Member("etc/passwd", FIFO, mode=0o644)],
        "a device": [Member("etc/passwd", CHARACTER, device=(1, 5), mode=0o666)],
        "too large": [Member("etc/passwd", FILE, content=b"victim:x:0:0::/:\n" + b"#" * (11 << 20))],
        "41 links": [symlink("etc/passwd", "/link0"), *chain, Member("link41", content=b"victim:x:0:0::/:/bin/sh\n")],
        "a circle": [symlink("etc/passwd", "passwd")],
        "a directory": [symlink("etc/passwd", "/tmp")],
        "a group file that is a pipe": [Member("etc/group", FIFO, mode=0o644)],
    }


async def test_a_joined_path_reads_the_users_of_the_host(tmp_path: Path) -> None:
    """CVE-2024-5154, CVE-2024-9341 as they were."""
    (tmp_path / "root/etc").mkdir(parents=True)
    databases(tmp_path)
    (tmp_path / "root/etc/passwd").symlink_to(tmp_path / "passwd")
    assert b"victim" in Path(os.path.join(tmp_path / "root", "etc/passwd")).read_bytes()


@pytest.mark.parametrize("kind", sorted(databases(Path("/tmp")) if os.access("/tmp", os.W_OK) else ()))
async def test_a_users_file_that_is_no_file_is_a_quick_error(kind: str, crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2024-5154, CVE-2024-9341, CVE-2024-9676, CVE-2025-4437, CVE-2026-47262."""
    name = await crisp.image(databases(tmp_path)[kind])
    config = crisp.attacker("id", image=name)
    config.linux.security_context.run_as_username = "victim"
    pod = await crisp.run_pod()
    began = time.monotonic()
    await refused(crisp.create(pod, config), Code.FAILED_PRECONDITION)
    assert time.monotonic() - began < 2


async def test_a_line_that_is_pasted_together_adds_a_user() -> None:
    """CVE-2022-4318, CVE-2026-15809 as they were: HOME goes into a line of passwd; the first fix looked for a
    backslash and an n, which is not what ends a line."""
    home = "/x\nroot2:x:0:0::/:/bin/sh"
    assert r"\n" not in home
    lines = f"user:x:1000:1000::{home}:/bin/sh\n".splitlines()
    assert [line.split(":")[2] for line in lines] == ["1000", "0"]


async def test_a_home_cannot_add_lines_to_passwd(crisp: Attacked) -> None:
    """CVE-2022-4318, CVE-2026-15809: real line ends in HOME, from the request and from the image's passwd."""
    pod = await crisp.run_pod()
    for value in (b"/x\nroot2:x:0:0::/:/bin/sh", b"/x\rroot2", b"/x:/bin/sh"):
        config = crisp.attacker("env", envs=[api.KeyValue(key="HOME", value=value)])
        await refused(crisp.create(pod, config), Code.INVALID_ARGUMENT, "HOME")
    written = b"HOME=/x" + bytes(r"\n", "ascii")  # a backslash and an n are harmless
    config = crisp.attacker("env", envs=[api.KeyValue(key="HOME", value=written[5:])])
    assert written.decode() in await crisp.output(pod, config)
    name = await crisp.image([Member("etc/passwd", content=b"root:x:0:0::/r\r\x0b/evil:/bin/sh\n")])
    said = await crisp.output(pod, crisp.attacker("sh", "-c", "echo $HOME; cat /etc/passwd | wc -l", image=name))
    assert said == ["/", "1"]


async def test_a_variable_is_one_variable(crisp: Attacked) -> None:
    """CVE-2022-4318: a value with a line end stays one value; a key cannot hold two."""
    pod = await crisp.run_pod()
    for key in ("", "A=B", "A\0B"):
        config = crisp.attacker("env", envs=[api.KeyValue(key=key, value=b"x")])
        await refused(crisp.create(pod, config), Code.INVALID_ARGUMENT, "key")
    config = crisp.attacker("sleep", "1000", envs=[api.KeyValue(key="A", value=b"1\nLD_PRELOAD=/x\n\xff")])
    id = await crisp.run(pod, config)
    entries = Path(f"/proc/{crisp.pid(id)}/environ").read_bytes().split(b"\0")
    assert b"A=1\nLD_PRELOAD=/x\n\xff" in entries
    assert not any(entry.startswith(b"LD_PRELOAD") for entry in entries)


async def test_each_container_gets_its_own_environment(crisp: Attacked) -> None:
    """CVE-2021-21334: many creates of one image at once, each with another variable.

    With one list for all of an image's containers, the weak variant, each has what the others asked for.
    """
    shared: list[str] = []
    weak = []
    for n in range(2):
        shared.append(f"V{n}={n}")
        weak.append(shared)
    assert weak[0] == ["V0=0", "V1=1"]
    pod = await crisp.run_pod()
    configs = [crisp.attacker("sleep", "1000", envs=[api.KeyValue(key=f"V{n}", value=b"%d" % n)]) for n in range(40)]
    ids = await asyncio.gather(*(crisp.run(pod, config) for config in configs))
    for n, id in enumerate(ids):
        entries = Path(f"/proc/{crisp.pid(id)}/environ").read_bytes().split(b"\0")
        assert [entry for entry in entries if entry.startswith(b"V")] == [b"V%d=%d" % (n, n)]
