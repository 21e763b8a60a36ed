"""The settings file: strict, with the place of every error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.settings import CniSettings, NetworkSettings, RouteSettings, Settings
from cri.settings_file import FLAGS, SettingsError, parse_settings

WHOLE = """\
# crisp
listen = "unix:///run/other/crisp.sock"
root = "/srv/crisp"
state = "/run/other"
metrics = ""
log_level = "debug"

[network]
bridge = "br-pods"
subnets = ["10.1.0.0/16", "fd00:1::/64"]
loopback_host_ports = false
pod_to_host = "deny"
pod_to_host_ports = ["tcp/443"]
forward_rule = true
provider = "cni"
routes = [{ to = "10.2.0.0/16", via = "192.0.2.2" }]

[registry]
config_path = "/etc/hosts.d"

[cni]
conf_dir = "/etc/cni"
bin_dir = "/opt/bin"
conf_template = "/etc/crisp/net.template"
timeout = "2m"
annotations = ["deviceID"]

[cgroup]
driver = "cgroupfs"

[pool]
size = 0

[streaming]
address = "[::1]:10350"
tls_cert = "/etc/crisp/tls.crt"
tls_key = "/etc/crisp/tls.key"
idle_timeout = "90m"
"""


def test_an_empty_file_gives_the_defaults() -> None:
    assert parse_settings("", "c.toml") == Settings()


def test_every_key_is_read() -> None:
    settings = parse_settings(WHOLE, "c.toml")
    assert settings.root == "/srv/crisp"
    assert settings.network == NetworkSettings(
        "br-pods",
        ("10.1.0.0/16", "fd00:1::/64"),
        False,
        "deny",
        ("tcp/443",),
        True,
        "cni",
        (RouteSettings("10.2.0.0/16", "192.0.2.2"),),
    )
    assert settings.cni == CniSettings("/etc/cni", "/opt/bin", "/etc/crisp/net.template", "2m", ("deviceID",))
    assert settings.registry.config_path == "/etc/hosts.d"
    assert settings.pool.size == 0
    assert settings.metrics == ""


def test_no_subnets_at_all_is_a_setting() -> None:
    assert parse_settings("[network]\nsubnets = []", "c.toml").network.subnets == ()


def routes(entry: str) -> str:
    """A file whose second route, in line 3, is ``entry``."""
    good = '{to = "10.90.0.0/24", via = "192.0.2.9"}, # { is a brace'
    return f"[network]\nroutes = [{good}\n  {entry},\n]\n"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("rooot = '/x'", "c.toml:1", "did you mean 'root'"),
        ("\n\nfoo = 1", "c.toml:3", "known are cgroup"),
        ("[network]\nbrige = 'x'", "c.toml:2", "in [network]; did you mean 'bridge'"),
        ("subnets = []", "c.toml:1", "did you mean [network] subnets"),
        ("[cni]\nroot = '/x'", "c.toml:2", "did you mean root before the first table"),
        ("[[network]]\nbridge = 'x'", "c.toml:1", "network is a table"),
        ("network = 3", "c.toml:1", "write [network]"),
        ("network = { bridge = 3 }", "c.toml:1", "network.bridge must be a string"),
        ("\nnetwork.bridge = 3", "c.toml:2", 'did you mean "3"'),
        ("[network]\nsubnets = '10.0.0.0/8'", "c.toml:2", 'did you mean ["10.0.0.0/8"]'),
        ("[network]\nsubnets = [1]", "c.toml:2", "a list of strings"),
        ("[network]\nloopback_host_ports = 1", "c.toml:2", "must be true or false"),
        ("[pool]\n size = '4'", "c.toml:2", "must be an integer"),
        ("[pool]\nsize = true", "c.toml:2", "must be an integer"),
        ("[pool]\nsize = -1", "c.toml:2", "between 0 and"),
        ("log_level = true", "c.toml:1", "must be a string"),
        ("log_level = 'warn'", "c.toml:1", "did you mean 'warning'"),
        ("[network]\nprovider = 'bridges'", "c.toml:2", "did you mean 'bridge'"),
        ("[cni]\nannotations = ['deviceId']", "c.toml:2", "did you mean 'deviceID'"),
        ("[cni]\ntimeout = '60'", "c.toml:2", 'did you mean "60s"'),
        ("[cgroup]\ndriver = 'cgroup'", "c.toml:2", "did you mean 'cgroupfs'"),
        ("[network]\nroutes = 1", "c.toml:2", 'must be a list of tables like {to = "...", via = "..."}'),
        ("[network]\nroutes = ['10.86.0.0/24']", "c.toml:2", "must be a list of tables"),
        ("[network]\nroutes = [\n{},\n]", "c.toml:3", "network.routes has an entry without to"),
        (routes('{to = "10.86.0.0/24"}'), "c.toml:3", "network.routes has an entry without via"),
        (routes('{to = 3, via = "192.0.2.2"}'), "c.toml:3", "network.routes.to must be a string"),
        (routes('{to = "10.86.0.1/24"}'), "c.toml:3", 'did you mean "10.86.0.0/24"'),
        (routes('{via = "192.0.2.2/24"}'), "c.toml:3", 'did you mean "192.0.2.2"'),
        (routes('{to = "10.86.0.0/24", vai = "x"}'), "c.toml:3", "in [network.routes]; did you mean 'via'"),
        (routes('{to = "10.86.0.0/24", via = "fd00::2"}'), "c.toml:3", "have to be of one IP version"),
        (routes('{to = "10.85.1.0/24", via = "192.0.2.2"}'), "c.toml:3", "the pod subnet 10.85.0.0/16; set subnets"),
        ("[[network.routes]]\nto = '::/8'\n[[network.routes]]\nto = '::/0'", "c.toml:3", "the default route"),
        ("network.routes = [{to = '10.86.0.0/24', gw = ''}]", "c.toml:1", "known are to, via"),
        ("root = '/a'\nroot = '/b'", "c.toml:2", "overwrite"),
        ("root = ", "c.toml:1", "is not TOML"),
        ("root = '''\nx", "c.toml:2", "is not TOML"),
        ("root = '/same'\nstate = '/same'", "c.toml:2", "must differ"),
    ],
)
def test_a_wrong_file_names_line_and_suggestion(text: str, place: str, words: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_settings(text, "c.toml")
    assert raised.value.object == place
    assert words in str(raised.value)


def test_flags_override_the_file() -> None:
    settings = parse_settings(WHOLE, "c.toml", {"root": "/flag", "state": None, "log_level": "error"})
    assert (settings.root, settings.state, settings.log_level) == ("/flag", "/run/other", "error")


def test_a_wrong_flag_is_named() -> None:
    with pytest.raises(SettingsError, match=r"--log-level: log_level must be one of"):
        parse_settings("", "c.toml", {"log_level": "loud"})
    with pytest.raises(SettingsError, match="--state: state and root are both"):
        parse_settings("root = '/x'", "c.toml", {"state": "/x"})
    assert FLAGS["log_level"] == "--log-level"


def test_routes_are_written_either_way() -> None:
    entry = "to = '10.86.0.0/24'", "via = '192.0.2.2'"
    one = parse_settings(f"[network]\nroutes = [{{{', '.join(entry)}}}]", "c.toml")
    other = parse_settings("[[network.routes]]\n" + "\n".join(entry), "c.toml")
    assert one == other and one.network.routes == (RouteSettings("10.86.0.0/24", "192.0.2.2"),)


@given(st.text())
def test_any_text_gives_settings_or_a_settings_error(text: str) -> None:
    try:
        parse_settings(text, "c.toml")
    except SettingsError as error:
        assert error.object.startswith("c.toml:")


def test_a_certificate_without_its_key_is_refused_with_its_line() -> None:
    for name in ("tls_cert", "tls_key"):
        with pytest.raises(SettingsError, match=r"^c.toml:2: tls_cert and tls_key belong together"):
            parse_settings(f'[streaming]\n{name} = "/etc/x"\n', "c.toml")
