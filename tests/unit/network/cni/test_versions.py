"""What each version of the CNI has."""

from __future__ import annotations

import pytest

from network.cni import versions


@pytest.mark.parametrize(
    ("version", "offered", "chosen"),
    [
        ("0.3.1", [], "0.3.1"),
        ("1.0.0", ["0.4.0", "1.1.0", "2.0.0"], "1.1.0"),
        ("", ["0.4.0"], "0.4.0"),
        ("1.0.0", ["9.0.0"], "1.0.0"),
    ],
)
def test_the_newest_version_that_both_know_is_chosen(version: str, offered: list[str], chosen: str) -> None:
    assert versions.choose(version, offered) == chosen


@pytest.mark.parametrize("version", ["0.2.0", "0.3.0", "1.2.0", "1.1", "v1.0.0"])
def test_an_unknown_version_is_refused_with_those_that_are_known(version: str) -> None:
    with pytest.raises(
        ValueError, match=rf"has cniVersion {version}, which is none of 0\.3\.1, 0\.4\.0, 1\.0\.0, 1\.1\.0"
    ):
        versions.choose(version, [])
    with pytest.raises(ValueError, match="has no cniVersion"):
        versions.choose("", [])


def test_each_version_has_what_the_specification_added() -> None:
    assert [each for each in versions.SUPPORTED if versions.has_check(each)] == ["0.4.0", "1.0.0", "1.1.0"]
    assert [each for each in versions.SUPPORTED if versions.numbers_families(each)] == ["0.3.1", "0.4.0"]
    assert [each for each in versions.SUPPORTED if versions.has_status(each)] == ["1.1.0"]
    assert [each for each in versions.SUPPORTED if versions.has_link_details(each)] == ["1.1.0"]
