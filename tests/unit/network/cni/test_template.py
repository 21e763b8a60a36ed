"""Configurations made from the node's pod subnets."""

from __future__ import annotations

import json

import pytest

from network.cni.template import render
from runtime.errors import InvalidArgument

CONTAINERD = """
{ "cniVersion": "1.0.0", "name": "k8s",
  "plugins": [{ "type": "ptp", "ipam": { "type": "host-local",
      "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
      "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}] } }] }
"""


def test_a_template_as_containerds_documentation_has_it() -> None:
    ipam = json.loads(render(CONTAINERD, ("10.1.0.0/24", "fd01::/64")))["plugins"][0]["ipam"]
    assert ipam["ranges"] == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]]
    assert ipam["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.PodCIDR}}", "10.1.0.0/24"),
        ("a {{- .PodCIDR -}} b", "a10.1.0.0/24b"),
        ("a {{ .PodCIDR }} b", "a 10.1.0.0/24 b"),
        ("{{range .PodCIDRRanges}}<{{.}}>{{end}}", "<10.1.0.0/24><fd01::/64>"),
        ("{{range $r := .PodCIDRRanges}}<{{$r}}>{{end}}", "<10.1.0.0/24><fd01::/64>"),
        ("{{if .PodCIDR}}yes{{else}}no{{end}}", "yes"),
        ("{{/* a note */}}x", "x"),
        ("", ""),
    ],
)
def test_each_action_does_what_go_does(template: str, text: str) -> None:
    assert render(template, ("10.1.0.0/24", "fd01::/64")) == text


def test_without_subnets_a_list_is_empty() -> None:
    assert render("{{range .Routes}}x{{else}}none{{end}}{{if .PodCIDR}}x{{else}}no{{end}}", ()) == "noneno"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{.NodeName}}", r"has '\.NodeName', which is not known"),
        ('{{printf "%s" .PodCIDR}}', "has the action {{printf"),
        ("{{if eq 1 1}}{{end}}", "has 'eq 1 1', which is not known"),
        ("{{range .PodCIDR}}{{end}}", r"a range over \.PodCIDR, which is no list"),
        ("{{range .Routes}}", "has a range without an end"),
        ("{{end}}", "has the action {{end}}"),
        ("{{else}}", "has the action {{else}}"),
        ("{{if .PodCIDR}}{{else}}{{else}}{{end}}", "has the action {{else}}"),
        ("{{$x}}", r"has '\$x', which is not known"),
        ("{{range f .Routes}}{{end}}", "is not known"),
        ("{{}}", "has the action {{}}"),
    ],
)
def test_what_is_not_known_is_refused(template: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        render(template, ("10.1.0.0/24",))
