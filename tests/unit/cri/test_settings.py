"""The settings as the rest of the daemon has them."""

from __future__ import annotations

from cri.settings import Changes, NetworkSettings, RegistrySettings, RouteSettings, Settings, compare, instance


def test_without_a_word_there_are_the_published_defaults() -> None:
    settings = Settings()
    assert settings.listen == "unix:///run/crisp/crisp.sock"
    assert (settings.network.bridge, settings.network.subnets) == ("crisp0", ("10.85.0.0/16",))
    assert (settings.cni.conf_dir, settings.cni.bin_dir) == ("/etc/cni/net.d", "/opt/cni/bin")
    assert settings.metrics == "127.0.0.1:9790"
    assert settings.cgroup.driver == "auto"


def test_streams_stay_on_the_loopback_unless_told_otherwise() -> None:
    assert Settings().streaming.address == "127.0.0.1:0"


def test_the_instance_is_eight_hex_digits_of_the_root() -> None:
    assert instance("/var/lib/crisp") == "bc9dfd00"
    assert instance("/a") != instance("/b")


def test_what_a_reload_applies_is_told_from_what_needs_a_restart() -> None:
    old = Settings()
    registry, network = RegistrySettings(config_path="/x"), NetworkSettings(bridge="y")
    new = Settings(log_level="error", registry=registry, network=network)
    assert compare(old, new) == Changes(("log_level", "registry.config_path"), ("network.bridge",))
    assert compare(old, old) == Changes((), ())


def test_a_route_more_needs_a_restart() -> None:
    network = NetworkSettings(routes=(RouteSettings("10.86.0.0/24", "192.0.2.2"),))
    assert compare(Settings(), Settings(network=network)).restart == ("network.routes",)
