from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import users
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.requests import ResolvedUser

PASSWD = b"""\
# a comment
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:An App:/home/app:/bin/sh
twin:x:1000:1002::/home/twin:
broken:x:abc:1:::
wide:x:4294967296:0:::
nogid:x:7:x::/:
+:::::
short:x:5
2147483648:x:0:0::/root:
odd:x:8:8::/tmp\tx:
"""
GROUP = b"""\
root:x:0:
staff:x:50:app,other
wheel:x:10:root,app
empty:x:60:
bad:x:six:twin
"""


class ImageRoot:
    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "etc").mkdir()
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY)

    def resolve(
        self, user: str, gid: int | None = None, groups: tuple[int, ...] = (), policy: str = "Merge"
    ) -> ResolvedUser:
        return users.resolve(self.fd, request(user, gid, groups, policy))


def request(user: str, gid: int | None = None, groups: tuple[int, ...] = (), policy: str = "Merge") -> Any:
    return {"rootfs": {}, "user": user, "gid": gid, "groups": list(groups), "policy": policy}


@pytest.fixture
def image(tmp_path: Path) -> Iterator[ImageRoot]:
    made = ImageRoot(tmp_path)
    (tmp_path / "etc/passwd").write_bytes(PASSWD)
    (tmp_path / "etc/group").write_bytes(GROUP)
    yield made
    os.close(made.fd)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, [0, 10], "/root")),
        ("root", (0, 0, [0, 10], "/root")),
        ("app", (1000, 1001, [1001, 50, 10], "/home/app")),
        ("1000", (1000, 1001, [1001, 50, 10], "/home/app")),
        ("4711", (4711, 0, [0], "/")),
        ("1000:staff", (1000, 50, [50, 10], "/home/app")),
        ("app:7", (1000, 7, [7, 50, 10], "/home/app")),
        ("4711:60", (4711, 60, [60], "/")),
        ("2147483647", (2147483647, 0, [0], "/")),
        ("odd", (8, 8, [8], "/")),
    ],
)
def test_a_user_becomes_numbers(image: ImageRoot, user: str, expected: tuple[int, int, list[int], str]) -> None:
    found = image.resolve(user)
    assert (found["uid"], found["gid"], found["additionalGids"], found["home"]) == expected


@pytest.mark.parametrize(
    "user",
    ["１", "+1", "-1", " 1", "1 ", "0x0", "root ", "ro ot", "root\n", "app:", ":0", ":", "app:staff:x", "a\0", "é"],
)
def test_what_only_looks_like_a_number_or_name_is_refused(image: ImageRoot, user: str) -> None:
    with pytest.raises(FailedPrecondition):
        image.resolve(user)


def test_python_would_take_such_numbers() -> None:
    """The weak variant: int() reads them all, and an exec user "１" became an identity."""
    assert [int(text) for text in ("１", "+1", " 1", "1_0")] == [1, 1, 1, 10]


def test_digits_with_an_underscore_are_a_name_and_no_number(image: ImageRoot) -> None:
    with pytest.raises(FailedPrecondition, match="no user '1_0'"):
        image.resolve("1_0")


@pytest.mark.parametrize("user", ["2147483648", "4294967296", "9" * 30, "0:4294967296", "wide", "broken", "nogid"])
def test_a_number_out_of_range_is_never_looked_up_as_a_name(image: ImageRoot, user: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"larger than|not a number"):
        image.resolve(user)


def test_a_given_group_wins_over_the_image_s(image: ImageRoot) -> None:
    found = image.resolve("app", gid=77)
    assert (found["gid"], found["additionalGids"]) == (77, [77, 50, 10])


def test_strict_takes_the_request_s_groups_only(image: ImageRoot) -> None:
    assert image.resolve("app", groups=(5, 50, 5), policy="Strict")["additionalGids"] == [1001, 5, 50]


def test_merge_adds_the_image_s_groups_once(image: ImageRoot) -> None:
    assert image.resolve("app", groups=(5, 50))["additionalGids"] == [1001, 5, 50, 10]


def test_a_member_of_a_group_without_a_number_is_refused(image: ImageRoot) -> None:
    with pytest.raises(FailedPrecondition, match="group 'bad'"):
        image.resolve("twin")


@pytest.mark.parametrize("user", ["nobody", "app:nogroup", "short"])
def test_who_is_not_in_the_image_is_named(image: ImageRoot, user: str) -> None:
    with pytest.raises(FailedPrecondition, match="the image has no"):
        image.resolve(user)


def test_an_unknown_policy_is_refused(image: ImageRoot) -> None:
    with pytest.raises(InvalidArgument, match="policy"):
        image.resolve("app", policy="Loose")


@pytest.mark.parametrize("number", [-1, 2**31])
def test_a_requested_group_out_of_range_is_refused(image: ImageRoot, number: int) -> None:
    with pytest.raises(InvalidArgument):
        image.resolve("app", groups=(number,))
    with pytest.raises(InvalidArgument):
        image.resolve("app", gid=number)


def test_an_image_without_the_files_knows_numbers_only(image: ImageRoot) -> None:
    (image.path / "etc/passwd").unlink()
    (image.path / "etc/group").unlink()
    assert image.resolve("0:0")["home"] == "/"
    with pytest.raises(FailedPrecondition):
        image.resolve("root")


def test_a_symlink_is_followed_inside_the_image_only(image: ImageRoot) -> None:
    (image.path / "etc/passwd").unlink()
    (image.path / "etc/passwd").symlink_to("/etc/other")
    (image.path / "etc/other").write_text("inner:x:3:3:::\n")
    assert image.resolve("inner")["uid"] == 3
    (image.path / "etc/passwd").unlink()
    (image.path / "etc/passwd").symlink_to("../../../../../../../../etc/passwd")
    with pytest.raises(FailedPrecondition):  # its own loop, not the host's file
        image.resolve("root")


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink to a fifo"])
def test_what_is_no_regular_file_is_refused_at_once(image: ImageRoot, kind: str) -> None:
    path = image.path / "etc/passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/pipe")
        os.mkfifo(image.path / "pipe")
    with pytest.raises(FailedPrecondition, match="no regular file"):  # whoever opens a fifo waits for a writer
        image.resolve("root")


def test_a_file_larger_than_the_bound_is_refused(image: ImageRoot) -> None:
    with open(image.path / "etc/group", "ab") as file:
        file.truncate(11 << 20)
    with pytest.raises(FailedPrecondition, match="larger than 10 MiB"):
        image.resolve("root")


def test_a_file_that_lies_about_its_size_is_bounded() -> None:
    """Files of procfs say 0 bytes; reading stops all the same."""
    root = os.open("/", os.O_PATH)
    try:
        assert users.read_database(root, "/proc/self/status")
    finally:
        os.close(root)


def test_more_links_than_the_kernel_follows_are_refused(image: ImageRoot) -> None:
    (image.path / "etc/passwd").unlink()
    for n in range(41):
        (image.path / f"etc/l{n}").symlink_to(f"l{n + 1}")
    (image.path / "etc/l41").write_text("root:x:0:0:::\n")
    (image.path / "etc/passwd").symlink_to("l0")
    with pytest.raises(FailedPrecondition, match="cannot be opened"):
        image.resolve("root")


def test_too_many_groups_are_refused() -> None:
    with pytest.raises(FailedPrecondition, match="groups"):
        users.plan_identity(request("5", groups=tuple(range(1, users.MAX_GROUPS + 1))), [], [])


@given(st.text(max_size=12))
def test_a_number_is_ascii_digits_or_an_error(text: str) -> None:
    try:
        number = users.parse_id(text, "user")
    except FailedPrecondition:
        return
    assert text.isascii() and text.isdigit() and number == int(text) <= users.MAX_ID


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed(content: bytes) -> None:
    assert all(entry.name for entry in users.parse_passwd(content))
    assert all(entry.name for entry in users.parse_group(content))
