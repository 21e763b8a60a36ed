"""A seccomp profile that is named has to be there."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

from cri.profile_files import check_profile_file, localhost_path
from proto import api_pb2 as api
from runtime.errors import NotFound


def context(text: str) -> api.LinuxContainerSecurityContext:
    return text_format.Parse(text, api.LinuxContainerSecurityContext())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", ""),
        ("seccomp { profile_type: RuntimeDefault }", ""),
        ("seccomp { profile_type: Localhost localhost_ref: '/a' }", "/a"),
        ("seccomp { profile_type: Unconfined } seccomp_profile_path: 'localhost//a'", ""),
        ("seccomp_profile_path: 'localhost//a'", "/a"),
        ("seccomp_profile_path: 'runtime/default'", ""),
        ("privileged: true seccomp { profile_type: Localhost localhost_ref: '/a' }", ""),
    ],
)
def test_the_path_of_a_localhost_profile_is_found_in_both_fields(text: str, path: str) -> None:
    assert localhost_path(context(text)) == path


def test_a_profile_that_is_missing_is_not_found(tmp_path: Path) -> None:
    missing = f"seccomp {{ profile_type: Localhost localhost_ref: '{tmp_path}/none.json' }}"
    with pytest.raises(NotFound, match=r"none\.json: there is no such seccomp profile"):
        check_profile_file(context(missing))
    (tmp_path / "none.json").write_text("{}")
    check_profile_file(context(missing))


@pytest.mark.parametrize("path", ["", "a.json", "/none/../none", "/none\\000"])
def test_a_path_of_a_wrong_shape_is_left_to_validation(path: str) -> None:
    check_profile_file(context(f"seccomp {{ profile_type: Localhost localhost_ref: '{path}' }}"))
