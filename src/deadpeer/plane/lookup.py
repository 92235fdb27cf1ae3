"""Which policies may want a packet: found by its destination, so that a gateway with thousands of peers does
not go through all of them for each packet.
"""

from bisect import insort
from collections.abc import Iterable
from operator import attrgetter

from .policy import Policy
from .selectors import Flow

_order = attrgetter("order")


class PolicyLookup:
    """The policies in use. Those whose remote selectors are single addresses, as those of road warriors are,
    are found by address; those for networks are candidates for every packet.
    """

    def __init__(self) -> None:
        self._by_host: dict[tuple[int, int], list[Policy]] = {}
        self._wide: list[Policy] = []
        self._hosts_of: dict[int, set[tuple[int, int]]] = {}
        self._wide_numbers: set[int] = set()

    def update(self, policy: Policy) -> None:
        """The policy is new, or its trap or its children have changed."""
        hosts, wide = policy.destinations()
        if hosts == self._hosts_of.get(policy.number) and wide == (policy.number in self._wide_numbers):
            return
        self.remove(policy)
        self._hosts_of[policy.number] = hosts
        for host in hosts:
            insort(self._by_host.setdefault(host, []), policy, key=_order)
        if wide:
            self._wide_numbers.add(policy.number)
            insort(self._wide, policy, key=_order)

    def remove(self, policy: Policy) -> None:
        """The policy is not in use any more. Nothing happens if it was not."""
        for host in self._hosts_of.pop(policy.number, ()):
            found = self._by_host[host]
            found.remove(policy)
            if not found:
                del self._by_host[host]
        if policy.number in self._wide_numbers:
            self._wide_numbers.remove(policy.number)
            self._wide.remove(policy)

    def candidates(self, flow: Flow) -> Iterable[Policy]:
        """Every policy that may have something to say about a packet to the remote side, in their order."""
        found = self._by_host.get((flow.version, flow.destination))
        if found is None:
            return self._wide
        if not self._wide:
            return found
        return sorted({*found, *self._wide}, key=_order)
