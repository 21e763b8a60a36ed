"""Lines of keys and entries in a settings file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.settings_lines import find_entry, find_line

WHOLE = """\
# crisp
listen = "unix:///run/other/crisp.sock"
root = "/srv/crisp"

[network]
bridge = "br-pods"
subnets = ["10.1.0.0/16"]
routes = [{ to = "10.2.0.0/16" }, { to = "{" }, # { is none, and so is [[network.routes]]
  { to = "10.4.0.0/16" },
  { to = '{' },
]

[pool]
size = 0
"""

TABLES = """\
[[network.routes]]
to = "10.2.0.0/16"
[[ network . "routes" ]]
to = "10.3.0.0/16"
[[network.others]]
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("root",), 3),
        (("network",), 5),
        (("network", "subnets"), 7),
        (("network", "absent"), 5),
        (("absent",), 1),
        (("pool", "size"), 14),
    ],
)
def test_a_key_is_found_in_its_table(path: tuple[str, ...], line: int) -> None:
    assert find_line(WHOLE, path) == line


def test_keys_inside_long_strings_are_not_keys() -> None:
    text = 'state = """\nroot = "/x"\n"""\n"root" = "/y"\n'
    assert find_line(text, ("root",)) == 4


def test_an_entry_is_found_in_a_list_and_among_tables() -> None:
    path = ("network", "routes")
    assert [find_entry(WHOLE, path, number) for number in range(5)] == [8, 8, 9, 10, 8]
    assert [find_entry(TABLES, path, number) for number in range(3)] == [1, 3, 3]


@given(st.text(), st.integers(0, 3))
def test_any_text_has_a_line(text: str, number: int) -> None:
    assert 1 <= find_entry(text, ("a", "b"), number) <= max(1, len(text.splitlines()))
