"""Image references: completed like everywhere, refused when they are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidArgument
from runtime.images.reference import Reference, is_digest, parse, parse_digest

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("docker.io/user/app:v1", "docker.io/user/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:v2", "localhost:5000/app:v2"),
        ("registry.example/a/b/c", "registry.example/a/b/c:latest"),
        ("registry.example:443/a", "registry.example:443/a:latest"),
        ("Registry/a", "Registry/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("127.0.0.1:5000/a__b/c--d.e", "127.0.0.1:5000/a__b/c--d.e:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1.36@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        ("a:5000", "docker.io/library/a:5000"),
        ("x:" + "t" * 128, "docker.io/library/x:" + "t" * 128),
    ],
)
def test_a_familiar_name_is_completed(text: str, normal: str) -> None:
    assert str(parse(text)) == normal
    assert str(parse(normal)) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "UPPER",
        "a/UPPER",
        "registry.example/A",
        "a:",
        "a:-x",
        "a:" + "t" * 129,
        "a@",
        "a@sha256:abc",
        "a@sha256:" + "A" * 64,
        "a@sha512:" + "0" * 128,
        "a@md5:" + "0" * 32,
        f"a@{DIGEST}@{DIGEST}",
        "sha256:../x",
        "a//b",
        "/a",
        "a/",
        "a/../b",
        "a/./b",
        "-a",
        "a b",
        "a\n",
        "a\0",
        "https://registry.example/a",
        "registry.example:0/a",
        "registry.example:65536/a",
        "registry.example:99999999/a",
        "-registry.example/a",
        "registry_x.example/a",
        "0" * 64,
        "ａ",
        "registry.example/" + "a" * 250,
        "x" * 513,
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


def test_a_digest_is_strict() -> None:
    assert parse_digest(DIGEST) == DIGEST
    for wrong in ("sha256:../x", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), "md5:" + "0" * 32, DIGEST + "\n", ""):
        assert not is_digest(wrong)
        with pytest.raises(InvalidArgument):
            parse_digest(wrong)


def test_parts_are_told_apart() -> None:
    reference = parse("registry.example:5000/team/app:v1")
    assert (reference.domain, reference.path, reference.tag) == ("registry.example:5000", "team/app", "v1")
    assert reference.name == "registry.example:5000/team/app"
    assert reference.selector == "v1"
    assert reference.with_digest(DIGEST) == Reference("registry.example:5000", "team/app", None, DIGEST)
    assert reference.with_digest(DIGEST).selector == DIGEST


@given(st.text(max_size=80))
def test_whatever_is_accepted_is_stable(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidArgument:
        return
    assert parse(str(reference)) == reference
    assert ".." not in reference.path.split("/")
