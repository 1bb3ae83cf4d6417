import pytest
from msgspec import structs

from common.errors import WireError
from services.decode_worker.fence import MAX_BACKENDS, Fence
from tests.services.decode_worker.transfers import commit, layer


def test_layers_of_an_older_loan_are_stale_on_their_backend_alone():
    fence = Fence()
    fence.check(structs.replace(layer(0), generation=5))
    fence.check(structs.replace(layer(1), generation=5))
    with pytest.raises(WireError, match="stale"):
        fence.check(structs.replace(layer(1), generation=4))
    fence.check(structs.replace(layer(1), generation=4, backend=1))


def test_backends_out_of_bounds_are_refused():
    with pytest.raises(WireError, match="field"):
        Fence().check(structs.replace(layer(0), backend=MAX_BACKENDS))


def test_a_transfer_is_committed_once_even_after_its_backend_was_lent_again():
    fence = Fence()
    assert fence.commits(commit())
    assert not fence.commits(commit())
    assert fence.commits(structs.replace(commit(rank=1), generation=2))
    assert not fence.commits(commit())


def test_a_first_commit_of_an_older_loan_is_stale():
    fence = Fence()
    fence.check(structs.replace(layer(0), generation=2))
    with pytest.raises(WireError, match="stale"):
        fence.commits(commit())
    assert fence.commits(structs.replace(commit(), generation=2))
