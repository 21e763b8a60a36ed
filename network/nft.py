"""The instance's own nftables table: static rules over sets, and a pod is elements.

It is one of family inet and, for what bridged frames say of themselves, one of family bridge.

``nft`` itself runs only to make the table (at start, and when the subnets change); a
pod's elements are added and removed by one nfnetlink batch. ``network.nft_table``
has the text, ``network.nft_messages`` the messages, ``network.wiring`` is the user.

Invariant: nothing outside ``crisp_<instance>`` is read or changed, and the table's
elements outlive its being made again.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Sequence

from network import nft_messages
from network.elements import ANY_PORTS, OF_BRIDGE, PODS, PORTS, TARGETS, Element
from network.foreign import Others
from network.names import table_name
from network.netlink import NETLINK_NETFILTER, Message, NetlinkSocket
from network.nft_table import Rules, plan_table
from runtime.errors import HostFault

_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
_NFT_SECONDS = 20
_ELEMENTS_A_BATCH = 256
"""A netlink attribute, here the list of elements, has at most 64 KiB."""
_SETS = (*(name for sets in (PODS, PORTS, ANY_PORTS, TARGETS) for name in sets.values()), *sorted(OF_BRIDGE))
"""What pods are elements of."""


class Table:
    """The table of ``instance``. Blocking; of the thread and the namespace that opened it."""

    def __init__(self, instance: str, *, path: str = _PATH) -> None:
        """``path`` is where ``nft`` is looked for, in the form of PATH."""
        self._instance = instance
        self._path = path
        self._netfilter = NetlinkSocket.open(NETLINK_NETFILTER)

    @property
    def name(self) -> str:
        return table_name(self._instance)

    def others(self, bridge: str) -> Others:
        """Tables of others, as far as pods on ``bridge`` are concerned."""
        return Others(self._netfilter, self._instance, bridge)

    def close(self) -> None:
        self._netfilter.close()

    def ensure(self, rules: Rules) -> None:
        """Make the table, or bring it up to date; the pods' elements stay.

        Raises:
            HostFault: no nft command, or what it says, or what the kernel lacks.
        """
        self.run(plan_table(self._instance, rules), "create the nftables table", table_name(self._instance))

    def run(self, script: str, step: str, object_: str) -> None:
        """Have ``nft`` carry out ``script``. Raises as ``ensure``."""
        nft = shutil.which("nft", path=self._path)
        if nft is None:
            message = f"no nft command in {self._path}; install the package nftables"
            raise HostFault(message, step=step, object=object_, call="nft", errno=errno.ENOENT)
        try:
            done = subprocess.run(
                [nft, "-f", "-"],
                input=script.encode(),
                capture_output=True,
                timeout=_NFT_SECONDS,
                env={"PATH": self._path, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            raise HostFault(
                "no end within 20 s", step=step, object=object_, call="nft", errno=errno.ETIMEDOUT
            ) from None
        except OSError as error:
            raise HostFault(step=step, object=object_, call=nft, errno=error.errno or 0) from error
        if done.returncode:
            raise HostFault(_first_error(done.stderr, done.returncode), step=step, object=object_, call="nft")

    def add(self, elements: Sequence[Element]) -> None:
        """Add pods' elements. Idempotent.

        Raises:
            HostFault: with ENOENT, the table is gone.
        """
        for begin in range(0, len(elements), _ELEMENTS_A_BATCH):
            batch = nft_messages.plan_add(self._instance, elements[begin : begin + _ELEMENTS_A_BATCH])
            self._netfilter.transact(batch, step="add the pod to the nftables sets")

    def discard(self, elements: Sequence[Element]) -> bool:
        """Remove a pod's elements; False if one of them, or the table, was not there."""
        pieces = (elements[at : at + _ELEMENTS_A_BATCH] for at in range(0, len(elements), _ELEMENTS_A_BATCH))
        return all([self._discard_each(piece) for piece in pieces])

    def _discard_each(self, elements: Sequence[Element]) -> bool:
        if self._discard(elements):
            return True
        for element in elements:  # a batch is all or nothing, and one that is missing must not keep the others
            self._discard([element])
        return False

    def _discard(self, elements: Sequence[Element]) -> bool:
        return self._found(nft_messages.plan_delete(self._instance, elements), "remove the pod from the nftables sets")

    def elements(self) -> list[Element] | None:
        """The pods' elements, or None without a table."""
        found: list[Element] = []
        for name in _SETS:
            listed = self.listed(name)
            if listed is None:
                return None
            found += listed
        return found

    def listed(self, name: str) -> list[Element] | None:
        """The elements of the set called ``name``, or None if it is not there."""
        message = nft_messages.plan_list(self._instance, name)
        try:
            return nft_messages.parse_elements(self._netfilter.dump(message, step="list the nftables set"))
        except HostFault as fault:
            if fault.errno == errno.ENOENT:
                return None
            raise

    def exists(self) -> bool:
        """Whether it is there, in each family."""
        asked = [nft_messages.plan_look_up(self._instance, family) for family in nft_messages.FAMILIES]
        return all(self._found([message], "look up the nftables table") for message in asked)

    def delete(self) -> bool:
        """Delete the whole table; False if there was none."""
        batches = [nft_messages.plan_delete_table(self._instance, family) for family in nft_messages.FAMILIES]
        return any([self._found(batch, "delete the nftables table") for batch in batches])

    def _found(self, batch: Sequence[Message], step: str) -> bool:
        try:
            self._netfilter.transact(batch, step=step)
        except HostFault as fault:
            if fault.errno == errno.ENOENT:
                return False
            raise
        return True


def _first_error(stderr: bytes, code: int) -> str:
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    said = next((line for line in lines if "Error:" in line), lines[0] if lines else "")
    said = said.partition("Error:")[2].strip() or said or f"exit status {code}"
    return said[:1].lower() + said[1:]
