import contextlib
import functools
import gc
import os
import random
import shutil
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from common.latency import Curve, LatencyModel
from services.router import planner, search
from services.router.plan import PoolView
from services.router.search import Found, Problem, Step

try:
    from services.router import _search
except ImportError:
    _search = None

needs_core = pytest.mark.skipif(_search is None, reason="the compiled search has not been built")
CURVES = dict(LatencyModel.load("a100-llama3-8b").curves)
while max(CURVES) < 1024:
    largest = max(CURVES)
    a, b, c, d = CURVES[largest]
    CURVES[2 * largest] = Curve(a * 1.2, b / 2, c / 2, d / 2)


def has_compiler() -> bool:
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which(compiler) is not None and headers.is_file()


def test_the_planner_uses_the_compiled_search_where_there_is_a_compiler():
    if not has_compiler():
        pytest.skip("no C compiler, or no Python.h: the planner is pure Python here")
    assert _search is not None, "pip install -e . builds it; see what it says with -v"
    assert planner.SEARCH is _search.search


def random_delays(rng, count):
    top = rng.choice((0.05, 0.5, 3.0, 30.0))
    draw = rng.choice(
        (
            lambda: rng.uniform(0, top),
            lambda: rng.uniform(0, top),
            lambda: rng.choice((0.0, rng.uniform(0, top))),
            lambda: rng.choice((0.0, top / 4, top / 2, top)),
            lambda: 0.0,
        )
    )
    return tuple(draw() for _ in range(count))


def random_nodes(rng, count):
    """Nodes of one size or of several, in a row or mixed up, their names shared or only equal."""
    if rng.random() < 0.3:
        nodes = [f"n{rng.randrange(1 + count // 4)}" for _ in range(count)]
    else:
        per_node = rng.choice((1, 2, 3, 4, 8, 8, 8, 16, 17, 64, 1024))
        nodes = [f"n{index // per_node}" for index in range(count)]
        if rng.random() < 0.4:
            rng.shuffle(nodes)
    return tuple(map(sys.intern, nodes)) if rng.random() < 0.5 else tuple(nodes)


def random_curve(rng, size):
    if size in CURVES:
        return CURVES[size]
    scale = rng.uniform(0.8, 1.2) / size
    return Curve(rng.uniform(0, 0.02) * size, 6e-5 * scale, 2.4e-9 * scale, 1.2e-9 * scale)


def random_problem(seed: int, most: int) -> Problem:
    rng = random.Random(seed)
    count = rng.randint(1, rng.choice((4, 16, 64, most)))
    members = tuple(rng.sample(range(count), rng.choice((0, 0, 0, rng.randint(0, min(count, 6))))))
    possible = range(max(1, len(members)), count + 1)
    sizes = sorted(rng.sample(possible, min(len(possible), rng.randint(1, 6))))
    if rng.random() < 0.7:
        sizes = [size for size in CURVES if size in possible and rng.random() < 0.9] or sizes
    curves = [random_curve(rng, size) for size in sizes]
    if rng.random() < 0.05:
        curves[0] = rng.choice((Curve(0.01, 0.0, 0.0, 0.0), Curve(0.0, 1e-5, 0.0, 0.0)))
    return Problem(
        length=rng.choice((1, rng.randint(1, 500), rng.randint(1, 400_000))),
        history=rng.choice((0, rng.randint(0, 200_000))),
        members=members,
        view=PoolView(
            tuple(map(str, range(count))), random_nodes(rng, count), random_delays(rng, count)
        ),
        sizes=tuple(sizes),
        curves=tuple(curves),
        keep=rng.choice((1.0, 0.95, 0.7, 1 - rng.random())),
        min_chunk=rng.choice((0, 1, 128, 2048, 2**31 - 1)),
        chunkwise=rng.random() < 0.8,
        price=rng.choice((None, None, 0.0, rng.uniform(0, 0.1), rng.uniform(0, 2))),
        fewest=rng.choice((1, 2, 8, 2048)),
    )


def exact(found: Found) -> str:
    """Every bit of it: `repr` of a float is exact, and tells 0.0 from -0.0."""
    return repr(found)


@needs_core
@pytest.mark.parametrize("block", range(30))
def test_compiled_plans_are_those_of_pure_python_bit_by_bit(block):
    chunked = 0
    for seed in range(250 * block, 250 * (block + 1)):
        problem = random_problem(seed, most=200)
        found = _search.search(problem)
        assert exact(found) == exact(search.search(problem)), f"seed {seed}"
        chunked += len(found.steps) > 1
    assert chunked > 5, "most problems have a plan of one chunk, but not nearly all"


@needs_core
@pytest.mark.parametrize("seed", range(100))
def test_compiled_plans_are_those_of_pure_python_in_large_pools(seed):
    problem = random_problem(10_000 + seed, most=1024)._replace(members=(), history=0)
    count = 256 * (1 + seed % 4)
    rng = random.Random(seed)
    sizes = tuple(size for size in CURVES if size <= (16, 128)[seed % 2])
    problem = problem._replace(
        view=PoolView(
            tuple(map(str, range(count))), random_nodes(rng, count), random_delays(rng, count)
        ),
        sizes=sizes,
        curves=tuple(CURVES[size] for size in sizes),
    )
    assert exact(_search.search(problem)) == exact(search.search(problem))


@needs_core
def test_its_answer_has_the_types_of_the_other_one():
    found = _search.search(good())
    assert type(found) is Found
    assert {type(step) for step in found.steps} == {Step}
    assert [type(value) for value in found.steps[0]] == [int, int, float, float]
    assert type(found.ttft) is float
    assert {type(member) for member in found.members} == {int}


def good(**changes) -> Problem:
    sizes = (1, 2, 4)
    problem = Problem(
        length=100_000,
        history=0,
        members=(),
        view=PoolView(tuple("abcd"), tuple("mmnn"), (0.0, 0.5, 0.25, 1.0)),
        sizes=sizes,
        curves=tuple(CURVES[size] for size in sizes),
        keep=0.95,
        min_chunk=128,
        chunkwise=True,
        price=None,
        fewest=1,
    )
    return problem._replace(**changes)


def viewed(nodes=tuple("mmnn"), delays=(0.0, 0.5, 0.25, 1.0)):
    return good(view=PoolView(tuple("abcd"), nodes, delays))


class Raising(str):
    __slots__ = ()

    def __eq__(self, other):
        raise RuntimeError

    def __hash__(self):
        raise RuntimeError


WRONG_TYPES = {
    "no problem": None,
    "a plain tuple": tuple(good()),
    "a found": Found(0.0, (), ()),
    "length": good(length=1.5),
    "length as text": good(length="1"),
    "history": good(history=None),
    "members": good(members=[0]),
    "a member": good(members=("a",)),
    "sizes": good(sizes=[1, 2, 4]),
    "a size": good(sizes=(1, 2.0, 4)),
    "curves": good(curves=None),
    "a curve": good(curves=(CURVES[1], CURVES[2], None)),
    "a coefficient": good(curves=(CURVES[1], CURVES[2], ("0", 0, 0, 0))),
    "keep": good(keep="1"),
    "min_chunk": good(min_chunk=1.0),
    "price": good(price="free"),
    "fewest": good(fewest=None),
    "nodes": viewed(nodes=list("mmnn")),
    "a node": viewed(nodes=("m", "m", "n", 1)),
    "an odd node": viewed(nodes=("m", "m", "n", Raising("n"))),
    "delays": viewed(delays=[0.0] * 4),
    "a delay": viewed(delays=(0.0, 0.0, 0.0, None)),
}
WRONG_VALUES = {
    "no length": good(length=0),
    "a negative length": good(length=-1),
    "a huge length": good(length=2**70),
    "a negative history": good(history=-1),
    "a huge history": good(history=2**60),
    "a member outside": good(members=(4,)),
    "a negative member": good(members=(-1,)),
    "a member twice": good(members=(1, 1), sizes=(2, 4), curves=(CURVES[2], CURVES[4])),
    "more members than the least size": good(members=(0, 1)),
    "no sizes": good(sizes=(), curves=()),
    "size 0": good(sizes=(0, 1, 2)),
    "a size beyond the pool": good(sizes=(1, 2, 5)),
    "a size twice": good(sizes=(1, 2, 2)),
    "descending sizes": good(sizes=(4, 2, 1)),
    "a curve too few": good(curves=(CURVES[1], CURVES[2])),
    "a short curve": good(curves=(CURVES[1], CURVES[2], (1.0, 1.0))),
    "a long curve": good(curves=(CURVES[1], CURVES[2], (1.0,) * 5)),
    "a negative coefficient": good(curves=(CURVES[1], CURVES[2], Curve(0, 0, 0, -1e-9))),
    "an infinite coefficient": good(curves=(CURVES[1], CURVES[2], Curve(float("inf"), 0, 0, 0))),
    "keep": good(keep=float("nan")),
    "nothing kept": good(keep=0.0),
    "price": good(price=float("nan")),
    "a huge min_chunk": good(min_chunk=2**63),
    "too few nodes": viewed(nodes=tuple("mmn")),
    "too few delays": viewed(delays=(0.0,) * 3),
    "an infinite delay": viewed(delays=(0.0, 0.0, 0.0, float("inf"))),
    "a delay that is none": viewed(delays=(float("nan"), 0.0, 0.0, 0.0)),
    "a huge delay": viewed(delays=(0, 0, 0, 10**400)),
    "only endless plans": good(curves=(Curve(1e308, 1e308, 0, 0),) * 3),
    "an empty pool": good(view=PoolView((), (), ()), sizes=(), curves=()),
}


@needs_core
@pytest.mark.parametrize("problem", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_a_wrong_type_is_a_type_error(problem):
    with pytest.raises(TypeError):
        _search.search(problem)


@needs_core
@pytest.mark.parametrize("problem", WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_number_is_a_value_error(problem):
    with pytest.raises(ValueError):
        _search.search(problem)


@needs_core
def test_too_many_sizes_or_instances_are_refused():
    sizes = tuple(range(1, 66))
    count = 65
    view = PoolView(("p",) * count, ("n",) * count, (0.0,) * count)
    curves = (CURVES[1],) * 65
    with pytest.raises(ValueError, match="sizes"):
        _search.search(good(view=view, sizes=sizes, curves=curves))
    assert _search.search(good(view=view, sizes=sizes[:64], curves=curves[:64])).ttft > 0
    count = 65_537
    view = PoolView(("p",) * count, ("n",) * count, (0.0,) * count)
    with pytest.raises(ValueError, match="nodes"):
        _search.search(good(view=view))


@needs_core
def test_a_view_without_the_right_attributes_is_refused():
    with pytest.raises(AttributeError):
        _search.search(good(view=object()))


@needs_core
def test_it_keeps_no_reference_to_what_it_was_given_nor_memory_of_its_own():
    problems = [good(), good(price=0.1), good(members=(2,)), *WRONG_TYPES.values()]
    problems += WRONG_VALUES.values()

    def run():
        for problem in problems:
            with contextlib.suppress(TypeError, ValueError):
                _search.search(problem)

    run()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(200):
        run()
    gc.collect()
    assert sys.getallocatedblocks() - before < 200, "less than one object for each round"


@needs_core
def test_two_threads_may_search_at_once():
    problems = [random_problem(seed, most=64) for seed in range(200)]
    expected = [exact(_search.search(problem)) for problem in problems]
    found = {}

    def run(key):
        found[key] = [exact(_search.search(problem)) for problem in problems]

    threads = [threading.Thread(target=functools.partial(run, key)) for key in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [expected] * 4
