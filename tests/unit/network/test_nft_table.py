from __future__ import annotations

from ipaddress import ip_network

from network.nft_table import plan_table

INSTANCE = "0badcafe"
SUBNETS = [ip_network("10.85.0.0/16"), ip_network("10.86.0.0/24"), ip_network("fd00:85::/64")]


def test_every_line_of_the_table_names_the_instances_own_table() -> None:
    lines = plan_table(INSTANCE, SUBNETS).splitlines()
    assert all(f" inet crisp_{INSTANCE}" in line for line in lines)
    assert f"add element inet crisp_{INSTANCE} subnets_v4 {{ 10.85.0.0/16 }}" in lines
    assert f"add element inet crisp_{INSTANCE} subnets_v4 {{ 10.86.0.0/24 }}" in lines
    assert f"add element inet crisp_{INSTANCE} subnets_v6 {{ fd00:85::/64 }}" in lines


def test_subnets_are_listed_anew_and_pods_stay() -> None:
    lines = plan_table(INSTANCE, SUBNETS).splitlines()
    for version, subnet in (("v4", "10.85.0.0/16"), ("v6", "fd00:85::/64")):
        flushed = lines.index(f"flush set inet crisp_{INSTANCE} subnets_{version}")
        assert flushed < lines.index(f"add element inet crisp_{INSTANCE} subnets_{version} {{ {subnet} }}")
    assert not any("flush" in line and "pods_v" in line for line in lines)


def test_chains_are_filled_anew() -> None:
    lines = plan_table(INSTANCE, []).splitlines()
    assert not any("add element" in line for line in lines)
    flushed = lines.index(f"flush chain inet crisp_{INSTANCE} postrouting")
    assert lines[flushed - 1].startswith(f"add chain inet crisp_{INSTANCE} postrouting ")
    assert lines[flushed + 1].startswith(f"add rule inet crisp_{INSTANCE} postrouting ip saddr @pods_v4 ")
    assert lines[flushed + 2].startswith(f"add rule inet crisp_{INSTANCE} postrouting ip6 saddr @pods_v6 ")
