from services.router.groups import Groups
from services.router.plan import PoolView


def groups(*nodes):
    """One list of delays for each node; instances are numbered through."""
    delays = [delay for node in nodes for delay in node]
    names = tuple(map(str, range(len(delays))))
    homes = tuple(f"n{index}" for index, node in enumerate(nodes) for _ in node)
    return Groups.of(PoolView(names, homes, tuple(map(float, delays))))


def test_a_size_within_one_node_takes_the_node_where_it_is_free_first():
    pool = groups([0, 5, 5, 5], [1, 2, 9, 9])
    # The s-th shortest delay decides: 0 of the first node for one, 2 of the second for two.
    assert pool.extend(pool.start, 1).members == (0,)
    assert pool.extend(pool.start, 2).members == (4, 5)
    assert pool.extend(pool.start, 4).members == (0, 1, 2, 3)


def test_whole_nodes_come_before_the_remainder_of_another():
    pool = groups([3, 3], [1, 9], [2, 2], [0, 4])
    group = pool.extend(pool.start, 5)
    # Nodes 2 and 0 are free whole first (2 s, 3 s); the fifth comes from node 3 (0 s).
    assert sorted(group.members) == [0, 1, 4, 5, 6]
    assert group.delay == 3


def test_a_group_grows_on_the_nodes_of_its_members_first():
    pool = groups([5, 0, 6, 7], [0.5, 1, 1, 1])
    start = pool.extend(pool.start, 1)
    assert start.members == (1,)
    assert pool.extend(start, 2).members == (1, 0)
    grown = pool.extend(start, 6)
    assert grown.members[:4] == (1, 0, 2, 3)
    assert grown.members[4:] == (4, 5)
    assert grown.delay == 7


def test_uneven_nodes_still_serve_every_size():
    pool = groups([1], [2, 2], [3, 3, 3, 3, 3])
    for size in range(1, 9):
        members = pool.extend(pool.start, size).members
        assert len(set(members)) == len(members) == size


def test_a_pool_within_a_group_offers_its_instances_only():
    pool = groups([0, 1, 2, 3], [0, 1, 2, 3])
    four = pool.extend(pool.start, 2)
    inner, start = pool.within(four, pool.start)
    assert set(inner.extend(start, 2).members) == set(four.members)
    assert pool.within(pool.extend(pool.start, 8), pool.start) == (pool, pool.start)
