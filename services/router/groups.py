"""Which instances join a group next: whole nodes first, short queues first.

Each node is sorted once. A group always holds the shortest-queued instances of every node, so it
is a count per node, and since time passing keeps the order of delays, the same groups serve the
whole search; only the delay left over changes. Instances that every group has to hold (they have
a reused prefix) stand outside these counts.

Source:
    Specification, section 6, get_group.
"""

import math
from collections.abc import Sequence

from services.router.plan import PoolView


class Group:
    """Instances in joining order (indices into the view) and their largest delay in seconds."""

    __slots__ = ("counts", "delay", "members", "next", "size")

    def __init__(self, members: tuple[int, ...], counts: tuple[int, ...], delay: float) -> None:
        self.members = members
        self.size = len(members)
        self.counts = counts
        self.delay = delay
        self.next: dict[int, Group] = {}


class Groups:
    """All groups that a pool offers, each made once.

    Args:
        nodes: the instances of each node that may join, by delay.
        queues: their delays.
        start: what every group holds.
        hosts: for each node whether it hosts a member of `start`.
    """

    def __init__(
        self,
        nodes: list[list[int]],
        queues: list[list[float]],
        start: Group,
        hosts: tuple[bool, ...],
    ) -> None:
        self._nodes = nodes
        self._queues = queues
        self._hosts = hosts
        self._size = start.size + sum(map(len, nodes))
        self._largest = max(map(len, nodes), default=0)
        self._made: dict[tuple[tuple[int, ...], int], Group] = {}
        self.start = start

    @classmethod
    def of(cls, view: PoolView, members: tuple[int, ...] = ()) -> "Groups":
        """The groups that all instances of a view offer, each with `members` at its head."""
        nodes: dict[str, list[int]] = {}
        for index, node in enumerate(view.nodes):
            nodes.setdefault(node, []).append(index)
        hosting = {view.nodes[index] for index in members}
        free = [[index for index in queue if index not in members] for queue in nodes.values()]
        for queue in free:
            queue.sort(key=view.delays.__getitem__)
        queues = [[view.delays[index] for index in queue] for queue in free]
        delay = max((view.delays[index] for index in members), default=0.0)
        start = Group(members, (0,) * len(nodes), delay)
        return cls(free, queues, start, tuple(node in hosting for node in nodes))

    def within(self, group: Group, members: Group) -> "tuple[Groups, Group]":
        """The groups that the instances of `group` offer, and `members` as one of them."""
        if group.size == self._size:
            return self, members
        inner = Groups(
            [node[:count] for node, count in zip(self._nodes, group.counts, strict=True)],
            [queue[:count] for queue, count in zip(self._queues, group.counts, strict=True)],
            self.start,
            self._hosts,
        )
        return inner, Group(members.members, members.counts, members.delay)

    def extend(self, group: Group, size: int) -> Group:
        """`group` and the instances that make it `size` strong; size <= all instances."""
        found = group.next.get(size)
        if found is None:
            # Different ways to the same instances share everything that follows.
            key = (group.counts, size)
            found = self._made.get(key)
            if found is None or found.members[: len(group.members)] != group.members:
                found = self._grow(group, size)
                self._made.setdefault(key, found)
            group.next[size] = found
        return found

    def _grow(self, group: Group, size: int) -> Group:
        counts, members, delay = list(group.counts), list(group.members), group.delay
        hosts = [node for node, count in enumerate(counts) if count or self._hosts[node]]
        while len(members) < size:
            need = size - len(members)
            node = self._best(hosts, need, counts)
            if node < 0:
                hosts = [node for node, count in enumerate(counts) if not count]
                node = self._best(hosts, need, counts)
            used = counts[node]
            taken = self._nodes[node][used : used + need]
            members += taken
            counts[node] = used = used + len(taken)
            delay = max(delay, self._queues[node][used - 1])
        return Group(tuple(members), tuple(counts), delay)

    def _best(self, nodes: Sequence[int], need: int, counts: Sequence[int]) -> int:
        """The node whose need-th delay is least; if none is so large, whose last delay is.

        Returns:
            -1 when all instances of `nodes` are in the group.
        """
        best, best_delay = -1, math.inf
        for node in nodes if need <= self._largest else ():
            queue = self._queues[node]
            last = counts[node] + need - 1
            if last < len(queue) and queue[last] < best_delay:
                best, best_delay = node, queue[last]
        if best >= 0:
            return best
        for node in nodes:
            queue = self._queues[node]
            if counts[node] < len(queue) and queue[-1] < best_delay:
                best, best_delay = node, queue[-1]
        return best
