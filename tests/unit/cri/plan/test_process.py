"""The process of a container."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.process import (
    DEFAULT_PATH,
    exec_process,
    plan_args,
    plan_directory,
    plan_env,
    plan_process,
    why_no_directory,
)
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.images.config import ImageConfig
from runtime.requests import ResolvedUser
from runtime.spec import Capabilities, Process

NO_CAPS = Capabilities(bounding=[], effective=[], permitted=[], inheritable=[], ambient=[])
USER = ResolvedUser(uid=5, gid=6, additionalGids=[6, 7], home="/home/u")


@pytest.mark.parametrize(
    ("command", "args", "line"),
    [
        ([], [], ["/entry", "serve"]),
        ([], ["x"], ["/entry", "x"]),
        (["c"], [], ["c"]),
        (["c"], ["x"], ["c", "x"]),
        ([""], [], [""]),
    ],
)
def test_the_command_is_kubernetes(image: ImageConfig, command: list[str], args: list[str], line: list[str]) -> None:
    assert plan_args(command, args, image) == line


def test_an_empty_entrypoint_is_none(image: ImageConfig) -> None:
    assert plan_args([], [], replace(image, entrypoint=("",))) == ["serve"]
    with pytest.raises(InvalidArgument, match="no command specified"):
        plan_args([], [], replace(image, entrypoint=(), cmd=()))


@pytest.mark.parametrize("word", ["a\0", "\ud800"])
def test_a_command_of_the_image_can_be_executed(image: ImageConfig, word: str) -> None:
    with pytest.raises(FailedPrecondition, match="ENTRYPOINT or CMD"):
        plan_args([], [], replace(image, cmd=(word,)))


def env(image: list[str], request: dict[str, bytes], *, tty: bool = False, home: str = "/h") -> dict[str, str]:
    config = api.ContainerConfig(tty=tty, envs=[api.KeyValue(key=key, value=value) for key, value in request.items()])
    entries = [entry.partition("=") for entry in plan_env(config, image, home=home, hostname="web")]
    assert len({name for name, _, _ in entries}) == len(entries)
    return {name: value for name, _, value in entries}


def test_the_environment_is_image_then_request_then_defaults() -> None:
    assert env(["A=1", "B=2"], {"B": b"3"}) == {
        "PATH": DEFAULT_PATH,
        "HOSTNAME": "web",
        "HOME": "/h",
        "A": "1",
        "B": "3",
    }
    given_ = env(["PATH=/p", "HOME=/i"], {"HOSTNAME": b"x", "TERM": b"dumb"}, tty=True)
    assert given_ == {"PATH": "/p", "HOME": "/i", "HOSTNAME": "x", "TERM": "dumb"}


def test_a_terminal_has_a_term() -> None:
    assert env([], {}, tty=True)["TERM"] == "xterm"
    assert "TERM" not in env([], {})
    assert env([], {}, home="")["HOME"] == "/"


@given(st.binary(max_size=20).filter(lambda value: b"\0" not in value))
def test_any_value_reaches_execve_unchanged(value: bytes) -> None:
    assert env([], {"A": value})["A"].encode("utf-8", "surrogateescape") == value


@pytest.mark.parametrize("entry", ["A", "=x", "", "A=\0", "A=\ud800"])
def test_an_environment_of_the_image_is_checked(entry: str) -> None:
    with pytest.raises(FailedPrecondition, match="ENV of the image"):
        env([entry], {})


def test_the_directory_is_the_requests_then_the_images() -> None:
    assert plan_directory("/r", "/i") == "/r"
    assert plan_directory("", "/i") == "/i"
    assert plan_directory("", "") == "/"


@pytest.mark.parametrize(
    "directory",
    ["i", "./i", "/proc/self/fd/7", "/proc/self/fd", "//proc//self/fd/7/..", "/proc/1/fd/3", "/proc/thread-self/fd/3",
     "/proc/1/task/2/fd", "/proc/self/fdinfo/1", "/a\0"],
)  # fmt: skip
def test_a_directory_of_the_image_is_checked(directory: str) -> None:
    assert why_no_directory(directory)
    with pytest.raises(FailedPrecondition, match="WORKDIR of the image"):
        plan_directory("", directory)


@pytest.mark.parametrize("directory", ["/", "/proc", "/proc/self/fdx", "/srv/proc/self/fd", "/a b\n"])
def test_other_directories_pass(directory: str) -> None:
    assert why_no_directory(directory) == ""


def process(image: ImageConfig) -> Process:
    config = api.ContainerConfig(command=["c"])
    config.linux.security_context.no_new_privs = True
    config.linux.resources.oom_score_adj = 17
    return plan_process(config, image, USER, NO_CAPS, "web")


def test_the_process_has_the_resolved_identity(image: ImageConfig) -> None:
    made = process(image)
    assert made["user"] == {"uid": 5, "gid": 6, "additionalGids": [6, 7]}
    assert (made["cwd"], made["terminal"], made["noNewPrivileges"]) == ("/app", False, True)
    assert (made["rlimits"], made["oomScoreAdj"], made["capabilities"]) == ([], 17, NO_CAPS)


def test_an_exec_is_the_same_process_with_other_words(image: ImageConfig) -> None:
    first = process(image)
    made = exec_process(first, ["ls", "-l"], tty=False)
    assert made == {**first, "args": ["ls", "-l"]}
    terminal = exec_process(first, ["sh"], tty=True)
    assert terminal["terminal"] and terminal["env"] == [*first["env"], "TERM=xterm"]
    assert exec_process(terminal, ["sh"], tty=True)["env"] == terminal["env"]
    assert first["args"] == ["c"]
