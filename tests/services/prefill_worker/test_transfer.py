from common.messages import Grant, Handshake, KvCommit, KvLayer, Loan, Peer, Token
from common.pages import Span
from services.prefill_worker.transfer import RETRY, Transfer
from tests.services.prefill_worker.plans import TARGET, plan, run_chunk

RUN = run_chunk(plan((10, 1), (9, 2)), 1, 0)


def transfer() -> Transfer:
    return Transfer(RUN, TARGET, ((10, 13), (17, 19)), num_layers=2)


def loan(generation: int, backend: int = 3) -> Grant:
    return Grant("r", 1, 1, 0, backend, generation)


def computed() -> Transfer:
    sending = transfer()
    sending.lend(loan(5), 0.0)
    sending.spans, sending.num_computed, sending.is_computed = (Span(0, 5),), 2, True
    return sending


def test_the_member_of_the_plan_asks() -> None:
    asking = transfer()
    sender = Peer("m0", 1, "tcp://127.0.0.1:1")
    expected = Handshake("r", 1, 1, 0, sender, TARGET, num_transfers=3, num_senders=2)
    assert asking.ask(0.0, 0.5) == expected
    assert asking.ask(0.4, 0.5) is None
    assert asking.ask(0.5, 0.5) == expected
    asking.lend(loan(5), 0.6)
    assert asking.ask(9.0, 0.5) is None


def test_a_newer_loan_replaces_an_older_one_and_not_the_other_way_round() -> None:
    sending = computed()
    assert sending.take(0.0, window=2) == [0, 1]
    for late in (loan(4), loan(5), loan(5, backend=9)):
        sending.lend(late, 0.1)
        assert sending.grant == loan(5)
        assert sending.take(0.1, window=2) == []
    sending.lend(loan(6, backend=1), 0.2)
    assert sending.take(0.2, window=2) == [0, 1]
    sending.acknowledge(0, 5, 0.3)
    assert sending.num_acked == 0
    sending.acknowledge(0, 6, 0.3)
    sending.acknowledge(0, 6, 0.3)
    assert sending.num_acked == 1
    layer, commit = (sending.parcel(loan(6, 1), i, "tcp://reply:1").message for i in (1, 2))
    assert isinstance(layer, KvLayer)
    assert isinstance(commit, KvCommit)
    assert (layer.backend, layer.generation, commit.backend, commit.generation) == (1, 6, 1, 6)


def test_frames_are_due_again_after_silence() -> None:
    sending = computed()
    assert sending.take(0.0, window=1) == [0]
    assert sending.take(RETRY / 2, window=1) == []
    assert sending.take(RETRY, window=1) == [0]


def test_the_commit_waits_for_all_acknowledgements_and_ends_the_transfer() -> None:
    sending = computed()
    sending.take(0.0, window=4)
    sending.acknowledge(1, 5, 0.0)
    assert sending.take(0.0, window=4) == []
    sending.acknowledge(0, 5, 0.0)
    assert sending.take(0.0, window=4) == [2]
    sending.acknowledge(2, 5, 0.0)
    assert sending.is_through


def test_a_loan_is_announced_until_the_new_broker_confirms_it() -> None:
    sending = computed()
    sending.take(0.0, window=2)
    sending.follow("tcp://b:2")
    asked = sending.ask(0.0, 0.5)
    assert asked is not None
    assert (asked.target.broker, asked.held) == ("tcp://b:2", Loan(3, 5))
    assert not sending.is_stalled(99.0, 10.0)
    sending.lend(loan(5), 99.0)
    assert sending.ask(99.0, 0.5) is None
    assert not sending.is_stalled(109.0, 10.0)
    assert sending.is_stalled(109.1, 10.0)


def test_the_owner_of_token_0_hands_the_ids_so_far_on_with_it() -> None:
    first = Token("r", 1, 0, 7)
    run = run_chunk(plan((10, 1), (9, 2)), 1, 0, past=b"ids.")
    sending = Transfer(run, TARGET, (), num_layers=0)
    for token, past in ((None, None), (first, b"ids.")):
        sending.first = token
        commit = sending.parcel(loan(5), 0, "tcp://reply:1").message
        assert isinstance(commit, KvCommit)
        assert (commit.job and commit.job.past) == past
