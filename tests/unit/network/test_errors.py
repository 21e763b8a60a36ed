from __future__ import annotations

from network.errors import NetworkNotReady
from runtime.errors import Unavailable


def test_a_network_that_is_not_ready_says_why_and_may_be_tried_again() -> None:
    fault = NetworkNotReady("no pod subnet yet", reason="NoPodSubnet", step="attach the pod")
    assert isinstance(fault, Unavailable)
    assert (fault.reason, str(fault)) == ("NoPodSubnet", "attach the pod: no pod subnet yet")
