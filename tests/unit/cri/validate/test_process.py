"""Words, variables, directory, log file, stop signal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.validate.process import check_env, check_log_path, check_process
from proto import api_pb2 as api
from runtime.errors import InvalidArgument


def test_an_ordinary_process_passes() -> None:
    config = api.ContainerConfig(
        command=["/bin/sh", "-c", "a\nb"],
        args=["", "é"],
        working_dir="/srv/../x",
        envs=[api.KeyValue(key="A B", value=b"\xff=\n"), api.KeyValue(key="HOME", value=b"/root")],
        log_path="a/b..c.log",
        stop_signal=api.SIGNAL_SIGRTMAX,
    )
    check_process(config, "c")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (api.ContainerConfig(command=["a\0"]), "c.command: has a NUL"),
        (api.ContainerConfig(args=["a\0"]), "c.args: has a NUL"),
        (api.ContainerConfig(working_dir="a"), "absolute path"),
        (api.ContainerConfig(working_dir="/a\0"), "absolute path"),
        (api.ContainerConfig(working_dir="/proc/self/fd"), "open file of a process"),
        (api.ContainerConfig(working_dir="/" + "a" * 4095), "too long"),
        (api.ContainerConfig(log_path="a/../b"), "c.log_path"),
    ],
)
def test_a_bad_process_is_refused(config: api.ContainerConfig, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        check_process(config, "c")
    assert words in str(raised.value)


def test_an_unknown_signal_is_refused() -> None:
    config = api.ContainerConfig.FromString(b"\x90\x01\x42")  # stop_signal (field 18) = 66
    with pytest.raises(InvalidArgument, match="no such signal: 66"):
        check_process(config, "c")


@pytest.mark.parametrize("key", ["", "=", "A=B", "A\0"])
def test_row_36_a_bad_name_is_refused(key: str) -> None:
    with pytest.raises(InvalidArgument, match=r"e\[0\].key"):
        check_env([api.KeyValue(key=key)], "e")


@pytest.mark.parametrize("value", [b"/x\nroot::0:0::/:/bin/sh", b"/x\r", b"/x:0"])
def test_home_cannot_break_a_line_of_passwd(value: bytes) -> None:
    with pytest.raises(InvalidArgument, match="of HOME"):
        check_env([api.KeyValue(key="HOME", value=value)], "e")
    check_env([api.KeyValue(key="HOMES", value=value)], "e")


@given(st.binary(max_size=20))
def test_a_value_may_hold_any_bytes_but_nul(value: bytes) -> None:
    if b"\0" in value:
        with pytest.raises(InvalidArgument, match="has a NUL"):
            check_env([api.KeyValue(key="A", value=value)], "e")
    else:
        check_env([api.KeyValue(key="A", value=value)], "e")


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/a", "a/", "a/.", ".", "..", "a\nb", "a\0"])
def test_row_34_a_log_stays_below_its_directory(path: str) -> None:
    with pytest.raises(InvalidArgument):
        check_log_path(path, "l")
