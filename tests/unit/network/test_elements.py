from __future__ import annotations

from ipaddress import ip_address

from network.elements import Element, Pod, by_set, link_local, owner_in, plan_elements
from network.provider import PortMapping

SANDBOX = "5a" * 32
POD = Pod(SANDBOX, ("10.85.0.2", "fd00::2"))


def test_a_pod_is_an_element_for_each_address() -> None:
    four, six, *_ = plan_elements(POD)
    assert four == Element("pods_v4", ip_address("10.85.0.2").packed, SANDBOX)
    assert six == Element("pods_v6", ip_address("fd00::2").packed, SANDBOX)
    assert (four.describe(), six.describe()) == ("10.85.0.2", "fd00::2")
    assert {element.comment for element in (four, six)} == {f"pod {SANDBOX}"}


def test_an_element_is_known_by_its_set_and_key() -> None:
    four, *_ = plan_elements(POD)
    (other, *_) = plan_elements(Pod("6b" * 32, ("10.85.0.2",)))
    assert four.identity == other.identity != plan_elements(Pod(SANDBOX, ("10.85.0.3",)))[0].identity


def test_the_owner_is_found_again_in_the_comment() -> None:
    assert owner_in(plan_elements(POD)[0].comment) == SANDBOX
    assert Element("pods_v4", b"").comment == "" == owner_in("")
    assert owner_in("somebody else's") == "somebody else's"


def test_a_pod_may_send_from_its_link_with_its_own_addresses() -> None:
    listed = {element.describe() for element in plan_elements(POD)}
    assert listed == {
        "10.85.0.2",
        "fd00::2",
        "links crp5a5a5a5a5a5a",
        "senders crp5a5a5a5a5a5a",
        "sources_v4 crp5a5a5a5a5a5a 10.85.0.2",
        *(
            f"{name} crp5a5a5a5a5a5a {address}"
            for name in ("sources_v6", "advertised")
            for address in ("fd00::2", "fe80::858:aff:fe55:2")
        ),
    }
    (sender,) = (element for element in plan_elements(POD) if element.set == "senders")
    assert sender.key == b"crp5a5a5a5a5a5a\0" + bytes.fromhex("0a580a550002") + bytes(2)


def test_a_pod_of_one_family_has_elements_of_that_one() -> None:
    assert not any("6" in element.set for element in plan_elements(Pod(SANDBOX, ("10.85.0.2",))))
    six = plan_elements(Pod(SANDBOX, ("fd00::2",)))
    assert not any("4" in element.set for element in six)
    assert "sources_v6 crp5a5a5a5a5a5a fe80::858:ff:fe00:2" in {element.describe() for element in six}


def test_a_link_local_address_follows_from_the_mac_address() -> None:
    assert str(link_local(bytes.fromhex("0a580a550002"))) == "fe80::858:aff:fe55:2"


def test_a_host_port_is_an_element_for_each_address_that_it_leads_to() -> None:
    ports = (PortMapping("tcp", 8080, 80, ""), PortMapping("udp", 53, 5353, "192.0.2.1"))
    before = {element.identity for element in plan_elements(POD)}
    listed = [each for each in plan_elements(Pod(SANDBOX, POD.addresses, ports)) if each.identity not in before]
    found = {element.identity: element for element in listed}
    assert {(element.set, element.describe()) for element in found.values()} == {
        ("any_ports_v4", "tcp *:8080"),
        ("any_ports_v6", "tcp [*]:8080"),
        ("targets_v4", "tcp to 10.85.0.2:80"),
        ("targets_v6", "tcp to [fd00::2]:80"),
        ("ports_v4", "udp 192.0.2.1:53"),
        ("targets_v4", "udp to 10.85.0.2:5353"),
    }
    mapped = found["any_ports_v4", bytes((6, 0, 0, 0, 0x1F, 0x90, 0, 0))]
    assert mapped.data == ip_address("10.85.0.2").packed + bytes((0, 80, 0, 0))
    assert found["ports_v4", ip_address("192.0.2.1").packed + bytes((17, 0, 0, 0, 0, 53, 0, 0))].owner == SANDBOX


def test_an_ipv6_port_is_written_in_brackets() -> None:
    (*_, port, target) = plan_elements(Pod(SANDBOX, POD.addresses, (PortMapping("sctp", 1, 2, "::1"),)))
    assert (port.set, port.describe(), target.describe()) == ("ports_v6", "sctp [::1]:1", "sctp to [fd00::2]:2")


def test_two_ports_that_lead_to_one_place_share_its_element() -> None:
    ports = (PortMapping("tcp", 8080, 80, ""), PortMapping("tcp", 8081, 80, ""))
    elements = plan_elements(Pod(SANDBOX, ("10.85.0.2",), ports))
    assert len(elements) == len({element.identity for element in elements})
    assert [each.describe() for each in elements if each.set == "targets_v4"] == ["tcp to 10.85.0.2:80"]


def test_elements_are_grouped_by_set() -> None:
    first, six, *_ = plan_elements(POD)
    (second, *_) = plan_elements(Pod("6b" * 32, ("10.85.0.3",)))
    assert by_set([first, six, second]) == {"pods_v4": [first, second], "pods_v6": [six]}


def test_an_element_of_a_map_says_where_it_leads() -> None:
    pod = Pod(SANDBOX, POD.addresses, (PortMapping("tcp", 8080, 80, ""),))
    leads = {element.set: element.leads_to() for element in plan_elements(pod)}
    assert (leads["any_ports_v4"], leads["any_ports_v6"], leads["pods_v4"]) == ("10.85.0.2:80", "[fd00::2]:80", "")
