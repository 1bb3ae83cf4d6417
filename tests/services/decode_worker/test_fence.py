import pytest
from msgspec import structs

from common.errors import WireError
from common.messages import Handshake, Peer, Target
from common.pages import Owner
from services.decode_worker.fence import MAX_BACKENDS, Fence
from services.kv_transfer.receive_manager import ReceiveManager
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


def test_a_repeated_commit_is_no_older_loan_even_when_its_backend_was_lent_again():
    fence = Fence()
    fence.check_commit(commit())
    fence.check_commit(structs.replace(commit(rank=1), generation=2))
    fence.check_commit(commit())
    with pytest.raises(WireError, match="stale"):
        fence.check(layer(0))


def test_a_first_commit_of_an_older_loan_is_stale():
    fence = Fence()
    fence.check(structs.replace(layer(0), generation=2))
    with pytest.raises(WireError, match="stale"):
        fence.check_commit(commit())
    fence.check_commit(structs.replace(commit(), generation=2))


def test_late_frames_of_a_dead_senders_loan_are_refused_once_its_backend_is_lent_again():
    broker, fence = ReceiveManager(1), Fence()

    def frames(loan):
        grant = loan.grant
        place = {"backend": grant.backend, "generation": grant.generation}
        return structs.replace(layer(0, grant.request), **place)

    [dead] = broker.handshake(_handshake("a", "tcp://dead"), 0.0)
    assert broker.handshake(_handshake("b", "tcp://alive"), 0.0) == []
    fence.check(frames(dead))
    [alive] = broker.end(Owner("a", 1))
    assert alive.grant.backend == dead.grant.backend
    assert alive.grant.generation > dead.grant.generation
    fence.check(frames(alive))
    with pytest.raises(WireError, match="stale"):
        fence.check(frames(dead))
    fence.check(frames(alive))


def _handshake(request, inbox):
    target = Target("d", 1, "tcp://d:1", "tcp://d:2", 1, "tcp://b:1")
    return Handshake(request, 1, 0, 0, Peer("p", 1, inbox), target, 2, 1)
