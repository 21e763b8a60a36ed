"""What is on the host is compared with what pods hold."""

from __future__ import annotations

from collections.abc import Collection

from network.elements import Element, Pod, plan_elements
from network.holdings import Holdings, Survey
from network.lease import Lease
from network.names import egress_link_name, host_link_name
from network.provider import Orphan, OrphanKind, PortMapping
from network.rtnetlink import Link

ONE, TWO = "1a" * 32, "2b" * 32
PORT = PortMapping("tcp", 8080, 80, "")
HOLDINGS = Holdings(
    (
        Lease("10.85.0.0/16", "10.85.0.2", ONE),
        Lease("10.85.0.0/16", "10.85.0.3", TWO),
        Lease("fd00::/64", "fd00::2", ONE),
    ),
    {TWO: (PORT,)},
)
POD = Pod(TWO, ("10.85.0.3",), (PORT,))


def link(name: str) -> Link:
    return Link(7, name, "veth", "", 4, 1500, b"\x0a\x58\0\0\0\1", True)


def orphans(survey: Survey, known: Collection[str], departing: Collection[str] = ()) -> set[Orphan]:
    return set(HOLDINGS.find_orphans(known, survey, departing))


def survey_of(*pods: Pod) -> Survey:
    """A host that has all of these pods."""
    links = tuple((pod.sandbox_id, link(host_link_name(pod.sandbox_id))) for pod in pods)
    return Survey(links, tuple(element for pod in pods for element in plan_elements(pod)))


def test_a_pod_has_all_its_addresses_in_the_order_of_its_leases_and_its_ports() -> None:
    assert HOLDINGS.pods() == [Pod(ONE, ("10.85.0.2", "fd00::2")), POD]


def test_what_known_pods_hold_is_no_orphan() -> None:
    assert orphans(survey_of(*HOLDINGS.pods()), {ONE, TWO}) == set()


def test_all_of_an_unknown_pod_is_an_orphan_in_the_kernel_and_in_the_records() -> None:
    assert orphans(survey_of(*HOLDINGS.pods()), {ONE}) == {
        Orphan(OrphanKind.LINK, host_link_name(TWO), TWO),
        *(Orphan(OrphanKind.ELEMENT, element.describe(), TWO) for element in plan_elements(POD)),
        Orphan(OrphanKind.HOST_PORT, "tcp *:8080", TWO),
        Orphan(OrphanKind.LEASE, "10.85.0.3", TWO),
    }


def test_a_link_of_a_departing_pod_is_none_but_its_elements_are() -> None:
    stray = Element("pods_v4", b"\x0a\x55\0\x09", TWO)
    survey = Survey(survey_of(POD).links, (stray,))
    assert orphans(survey, {ONE}, {TWO}) - orphans(Survey((), ()), {ONE}) == {
        Orphan(OrphanKind.ELEMENT, stray.describe(), TWO)
    }


def test_a_link_that_a_kill_left_without_an_alias_is_known_by_its_name() -> None:
    lost = tuple(("", link(name)) for name in (host_link_name(ONE), egress_link_name(ONE), "crp000000000000"))
    found = orphans(Survey(lost, ()), {ONE, TWO})
    assert found == {Orphan(OrphanKind.LINK, "crp000000000000", "")}
