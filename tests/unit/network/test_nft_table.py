from __future__ import annotations

from ipaddress import ip_network

from network.nft_table import Rules, plan_table

INSTANCE = "0badcafe"
SUBNETS = (ip_network("10.85.0.0/16"), ip_network("10.86.0.0/24"), ip_network("fd00:85::/64"))
RULES = Rules("crisp0", SUBNETS)


def test_every_line_of_the_table_names_the_instances_own_table() -> None:
    lines = plan_table(INSTANCE, RULES).splitlines()
    assert all(f" inet crisp_{INSTANCE}" in line or f" bridge crisp_{INSTANCE}" in line for line in lines)
    assert f"add element inet crisp_{INSTANCE} subnets_v4 {{ 10.85.0.0/16 }}" in lines
    assert f"add element inet crisp_{INSTANCE} subnets_v4 {{ 10.86.0.0/24 }}" in lines
    assert f"add element inet crisp_{INSTANCE} subnets_v6 {{ fd00:85::/64 }}" in lines


def test_subnets_are_listed_anew_and_pods_stay() -> None:
    lines = plan_table(INSTANCE, RULES).splitlines()
    for version, subnet in (("v4", "10.85.0.0/16"), ("v6", "fd00:85::/64")):
        flushed = lines.index(f"flush set inet crisp_{INSTANCE} subnets_{version}")
        assert flushed < lines.index(f"add element inet crisp_{INSTANCE} subnets_{version} {{ {subnet} }}")
    assert not any("flush" in line and "pods_v" in line for line in lines)


def test_pods_of_other_nodes_are_reached_as_those_of_this_one_are() -> None:
    elsewhere = (ip_network("10.87.0.0/24"), ip_network("fd00:87::/64"))
    lines = plan_table(INSTANCE, Rules("crisp0", SUBNETS, elsewhere=elsewhere)).splitlines()
    for version, subnet in (("v4", "10.87.0.0/24"), ("v6", "fd00:87::/64"), ("v4", "10.86.0.0/24")):
        assert f"add element inet crisp_{INSTANCE} subnets_{version} {{ {subnet} }}" in lines


def test_chains_are_filled_anew() -> None:
    lines = plan_table(INSTANCE, Rules("crisp0")).splitlines()
    assert not any("add element" in line for line in lines)
    for name in ("host_ports", "prerouting", "output", "postrouting", "guard"):
        flushed = lines.index(f"flush chain inet crisp_{INSTANCE} {name}")
        assert lines[flushed - 1].startswith(f"add chain inet crisp_{INSTANCE} {name}")
        assert lines[flushed + 1].startswith(f"add rule inet crisp_{INSTANCE} {name} ")


def test_the_loopback_leads_to_pods_only_where_it_should() -> None:
    returning = f"add rule inet crisp_{INSTANCE} output ip daddr 127.0.0.0/8 return"
    assert returning in plan_table(INSTANCE, Rules("crisp0", loopback=False))
    assert returning not in plan_table(INSTANCE, Rules("crisp0", loopback=True))
    for loopback in (True, False):
        text = plan_table(INSTANCE, Rules("crisp0", loopback=loopback))
        assert f"add rule inet crisp_{INSTANCE} output ip6 daddr ::1 return" in text


def test_pods_may_use_of_the_node_what_the_settings_say() -> None:
    chain = f"add rule inet crisp_{INSTANCE} input "
    assert chain not in plan_table(INSTANCE, Rules("crisp0"))
    text = plan_table(INSTANCE, Rules("crisp0", host_ports=(("tcp", 443),)))
    rules = [line.removeprefix(chain) for line in text.splitlines() if line.startswith(chain)]
    assert [rule for rule in rules if "dport" in rule] == [
        'iifname "crisp0" udp dport 53 accept',
        'iifname "crisp0" tcp dport 53 accept',
        'iifname "crisp0" tcp dport 443 accept',
    ]
    assert rules[-1].startswith('iifname "crisp0" drop')


def test_nobody_but_the_node_uses_its_loopback() -> None:
    for loopback in (True, False):
        text = plan_table(INSTANCE, Rules("br-pods", loopback=loopback))
        for side in ("saddr", "daddr"):
            assert f'guard iifname "br-pods" ip {side} 127.0.0.0/8 drop' in text
