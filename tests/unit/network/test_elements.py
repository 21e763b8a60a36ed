from __future__ import annotations

from ipaddress import ip_address

from network.elements import Element, Pod, by_set, owner_in, plan_elements

SANDBOX = "5a" * 32
POD = Pod(SANDBOX, ("10.85.0.2", "fd00::2"))


def test_a_pod_is_an_element_for_each_address() -> None:
    four, six = plan_elements(POD)
    assert four == Element("pods_v4", ip_address("10.85.0.2").packed, SANDBOX)
    assert six == Element("pods_v6", ip_address("fd00::2").packed, SANDBOX)
    assert (four.describe(), six.describe()) == ("10.85.0.2", "fd00::2")
    assert {element.comment for element in (four, six)} == {f"pod {SANDBOX}"}


def test_an_element_is_known_by_its_set_and_key() -> None:
    four, _ = plan_elements(POD)
    (other,) = plan_elements(Pod("6b" * 32, ("10.85.0.2",)))
    assert four.identity == other.identity != plan_elements(Pod(SANDBOX, ("10.85.0.3",)))[0].identity


def test_the_owner_is_found_again_in_the_comment() -> None:
    assert owner_in(plan_elements(POD)[0].comment) == SANDBOX
    assert Element("pods_v4", b"").comment == "" == owner_in("")
    assert owner_in("somebody else's") == "somebody else's"


def test_elements_are_grouped_by_set() -> None:
    first, six = plan_elements(POD)
    (second,) = plan_elements(Pod("6b" * 32, ("10.85.0.3",)))
    assert by_set([first, six, second]) == {"pods_v4": [first, second], "pods_v6": [six]}
