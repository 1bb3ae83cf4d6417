import random

import pytest
from msgspec import structs

from common.generation import Sampled
from common.messages import Held, Sampling
from common.pages import Owner, Span
from services.decode_worker.scheduler import Scheduler
from services.decode_worker.slots import Slots
from tests.services.decode_worker.transfers import NUM_LAYERS, commit, job, layer

EOS = 2
A, B, C = Owner("a", 1), Owner("b", 1), Owner("c", 1)


class Decode:
    """A scheduler with its slots, fed with whole transfers."""

    def __init__(self, num_pages=16, max_batch=4, grow=16):
        self.slots = Slots(num_pages)
        self.scheduler = Scheduler(self.slots, {EOS}, max_batch, grow)

    def layers(self, request="a", rank=0, num_layers=NUM_LAYERS, **changes):
        for number in range(num_layers):
            self.slots.open(layer(number, request, rank=rank, **changes), 0.0)
        self.slots.copied()

    def hand_over(self, request="a", prompt_length=20, reserve=28, **changes):
        self.layers(request, prompt_length=prompt_length, reserve=reserve)
        last = commit(request, prompt_length=prompt_length, job=job(request, **changes))
        assert self.scheduler.commit(last) is None

    def step(self, token=9):
        boundary = self.scheduler.start()
        entries = self.scheduler.entries()
        return boundary, entries, self.scheduler.finish([Sampled(token)] * len(entries))

    def batch(self):
        return [request.owner.request for request in self.scheduler.start().batch]


def test_a_request_is_ready_with_its_last_transfer_whoever_brings_the_job():
    decode = Decode()
    for rank in range(3):
        assert not decode.scheduler.has_work
        decode.layers(rank=rank)
        decode.scheduler.commit(
            commit(rank=rank, num_transfers=3, job=job() if rank == 1 else None)
        )
    assert decode.batch() == ["a"]


def test_a_repeated_commit_counts_once():
    decode = Decode()
    decode.layers()
    for _ in range(2):
        decode.scheduler.commit(commit(num_transfers=2, job=job()))
    assert not decode.scheduler.has_work
    decode.layers(rank=1)
    for _ in range(2):
        decode.scheduler.commit(commit(rank=1, num_transfers=2))
    assert decode.batch() == ["a"]
    assert decode.scheduler.commit(commit(rank=1, num_transfers=2)) is None
    assert decode.scheduler.num_active == 1


def test_a_commit_without_all_its_layers_fails_the_request():
    decode = Decode()
    decode.layers(num_layers=1)
    failure = decode.scheduler.commit(commit(job=job()))
    assert failure is not None and failure.retryable and "1 layers" in failure.why
    assert decode.slots.totals() == (256, 256)


@pytest.mark.parametrize("prompt_length", [1, 29])
def test_commits_of_a_prompt_without_slots_fail_the_request(prompt_length):
    decode = Decode()
    if prompt_length == 29:
        decode.layers(prompt_length=16, reserve=16)
    num_layers = NUM_LAYERS if prompt_length == 29 else 0
    lie = commit(prompt_length=prompt_length, num_layers=num_layers, job=job())
    failure = decode.scheduler.commit(lie)
    assert failure is not None and "never arrived" in failure.why
    assert not decode.scheduler.has_work
    decode.slots.copied()
    assert decode.slots.totals()[1] == decode.slots.totals()[0]


def test_steps_write_the_last_token_and_draw_the_next():
    decode = Decode()
    decode.hand_over(first=5)
    _, [entry], _ = decode.step(token=8)
    assert (entry.last, entry.position, entry.spans) == (5, 20, [Span(0, 32)])
    _, [entry], _ = decode.step()
    assert (entry.last, entry.position) == (8, 21)


def test_indices_count_across_attempts_and_the_first_token_is_repeated_once():
    decode = Decode()
    decode.hand_over(index=4)
    _, _, outcome = decode.step(token=8)
    assert [(t.index, t.id) for t in outcome.reported[0].take_tokens()] == [(4, 5), (5, 8)]
    _, _, outcome = decode.step(token=9)
    assert [(t.index, t.id) for t in outcome.reported[0].take_tokens()] == [(6, 9)]


@pytest.mark.parametrize(
    ("ending", "tokens", "reason"),
    [
        ({"max_tokens": 3}, [8, 8], "length"),
        ({}, [8, EOS], "stop"),
        ({"stop_token_ids": (8,)}, [8], "stop"),
        ({"ignore_eos": True, "max_tokens": 4}, [EOS, EOS, EOS], "length"),
    ],
)
def test_a_request_leaves_with_its_reason_on_its_last_token(ending, tokens, reason):
    decode = Decode()
    decode.hand_over(**ending)
    for number, token in enumerate(tokens):
        _, _, outcome = decode.step(token)
        last = outcome.reported[0].take_tokens()[-1]
        assert last.finish == (reason if number == len(tokens) - 1 else None)
    assert outcome.reported[0].reason == reason
    assert not decode.scheduler.has_work
    assert decode.slots.totals() == (256, 256)


def test_ends_are_forbidden_until_min_tokens_are_emitted():
    decode = Decode()
    decode.hand_over(min_tokens=3, stop_token_ids=(7,))
    assert [decode.step()[1][0].forbidden for _ in range(3)] == [{EOS, 7}, {EOS, 7}, set()]


def test_admission_waits_for_room_in_the_batch_in_order_of_arrival():
    decode = Decode(max_batch=2)
    for request, max_tokens in (("a", 9), ("b", 2), ("c", 9)):
        decode.hand_over(request, max_tokens=max_tokens)
    admitted = [[r.owner.request for r in decode.step()[0].admitted] for _ in range(3)]
    assert admitted == [["a", "b"], ["c"], []]


def test_a_request_grows_when_its_next_token_has_no_slot():
    decode = Decode(grow=16)
    decode.hand_over(prompt_length=30, reserve=32, max_tokens=50)
    held = [sum(stop - start for start, stop in decode.step()[1][0].spans) for _ in range(4)]
    assert held == [32, 32, 48, 48]


def test_a_request_that_cannot_grow_has_the_youngest_make_room():
    decode = Decode(num_pages=6, grow=16)
    for name, prompt_length in (("a", 31), ("b", 20), ("c", 20)):
        decode.hand_over(name, prompt_length=prompt_length, reserve=32, max_tokens=50)
    assert not decode.step()[0].failed
    boundary, entries, outcome = decode.step()
    [failure] = boundary.failed
    assert failure.owner == C and failure.retryable and failure.evicted
    assert [request.owner for request in outcome.reported] == [A, B] and len(entries) == 2
    assert decode.slots.totals() == (96, 16)


def test_the_youngest_itself_gives_way_when_it_cannot_grow():
    decode = Decode(num_pages=4, grow=16)
    decode.hand_over("a", prompt_length=8, reserve=32, max_tokens=20)
    decode.hand_over("b", prompt_length=31, reserve=32, max_tokens=50)
    decode.step()
    [failure] = decode.step()[0].failed
    assert failure.owner == B and failure.evicted
    assert decode.batch() == ["a"]


def test_a_ready_request_is_younger_than_all_admitted_ones():
    decode = Decode(num_pages=4, max_batch=1, grow=16)
    decode.hand_over("a", prompt_length=32, reserve=32, max_tokens=50)
    decode.hand_over("b", prompt_length=20, reserve=32)
    [failure] = decode.step()[0].failed
    assert failure.owner == B and failure.evicted
    assert decode.scheduler.num_active == 1


def test_a_request_grows_by_no_more_than_it_may_still_need():
    decode = Decode(num_pages=6, grow=64)
    decode.hand_over("a", prompt_length=32, reserve=32, max_tokens=5)
    decode.hand_over("b", prompt_length=20, reserve=32)
    assert not decode.step()[0].failed
    assert decode.slots.totals() == (96, 16)


def test_a_request_alone_that_cannot_grow_says_what_to_do():
    decode = Decode(num_pages=2, grow=16)
    decode.hand_over(prompt_length=32, reserve=32, max_tokens=50)
    [failure] = decode.step()[0].failed
    assert not failure.retryable and not failure.evicted
    assert "raise decode.kv_tokens" in failure.why
    assert decode.slots.totals() == (32, 32)


def test_kv_that_still_arrives_is_never_evicted():
    decode = Decode(num_pages=4, grow=16)
    decode.hand_over("a", prompt_length=32, reserve=32, max_tokens=50)
    decode.layers("b", prompt_length=20, reserve=32)
    [failure] = decode.step()[0].failed
    assert failure.owner == A and failure.evicted and failure.retryable
    assert decode.slots.owners() == [B]


def test_kv_without_room_gets_that_of_the_youngest_at_the_next_boundary():
    decode = Decode(num_pages=6)
    for name in "abc":
        decode.hand_over(name, reserve=32)
    assert decode.batch() == ["a", "b", "c"]
    decode.scheduler.want(layer(0, "d", reserve=40), 3.0)
    assert decode.slots.totals() == (96, 0)
    decode.scheduler.finish([Sampled(9)] * 3)
    boundary, _, _ = decode.step()
    assert [failure.owner.request for failure in boundary.failed] == ["c", "b"]
    assert all(failure.evicted and failure.retryable for failure in boundary.failed)
    assert [request.owner for request in boundary.batch] == [A]
    assert decode.slots.spans(Owner("d", 1)) != []
    assert decode.slots.totals() == (96, 16)
    assert Held("d", 1, 48, age=2.0) in decode.scheduler.held(5.0)


@pytest.mark.parametrize("reserve", [65, 97])
def test_kv_that_others_cannot_make_room_for_fails_and_evicts_nobody(reserve):
    decode = Decode(num_pages=6)
    decode.hand_over("a", reserve=32)
    decode.layers("b", reserve=32)
    decode.scheduler.want(layer(0, "d", reserve=reserve), 0.0)
    boundary, _, _ = decode.step()
    assert [(f.owner.request, f.evicted, f.retryable) for f in boundary.failed] == [
        ("d", True, True)
    ]
    assert decode.slots.ended(Owner("d", 1)) and not decode.slots.ended(A)
    assert not decode.scheduler.start().failed


def test_what_wants_room_and_ends_gets_none():
    decode = Decode(num_pages=2)
    decode.hand_over("a", reserve=32)
    decode.scheduler.want(layer(0, "b"), 0.0)
    decode.scheduler.end(B)
    decode.scheduler.want(layer(0, "b"), 0.0)
    assert not decode.step()[0].failed
    assert decode.slots.owners() == [A]


def test_held_tells_arriving_wanted_and_admitted_attempts_apart():
    decode = Decode()
    decode.hand_over("a")
    decode.scheduler.start()
    decode.layers("b")
    decode.scheduler.commit(commit("c", num_layers=0, num_transfers=2))
    decode.scheduler.want(layer(0, "d"), 1.0)
    held = decode.scheduler.held(4.0)
    assert {(h.request, h.slots, h.age, h.admitted) for h in held} == {
        ("a", 32, 4.0, True),
        ("b", 32, 4.0, False),
        ("c", 0, 0.0, False),
        ("d", 0, 0.0, False),
    }
    assert decode.scheduler.waiting() == {B, C, Owner("d", 1)}


def test_tokens_can_be_asked_for_from_readiness_until_after_the_end():
    decode = Decode()
    assert decode.scheduler.tokens(A, 4) is None
    decode.layers()
    assert decode.scheduler.tokens(A, 4) == []
    decode.scheduler.commit(commit(job=job(index=4, max_tokens=3)))
    for expected in ([5], [5, 8], [5, 8, 8]):
        assert [token.id for token in decode.scheduler.tokens(A, 4)] == expected
        if len(expected) < 3:
            decode.step(token=8)
    assert not decode.scheduler.has_work
    assert [token.index for token in decode.scheduler.tokens(A, 5)] == [5, 6]
    assert decode.scheduler.tokens(A, 7) == []
    assert decode.scheduler.tokens(A, 3) is None


def test_after_a_fence_nothing_is_known_and_a_step_under_way_brings_nothing():
    decode = Decode()
    decode.hand_over("a")
    assert decode.batch() == ["a"]
    decode.layers("b")
    decode.scheduler.commit(commit("c", num_layers=0, num_transfers=2))
    decode.scheduler.want(layer(0, "d"), 0.0)
    decode.scheduler.fence()
    assert decode.slots.totals() == (256, 224)
    outcome = decode.scheduler.finish([Sampled(9)])
    assert (outcome.reported, outcome.failed) == ([], [])
    assert decode.slots.totals() == (256, 256)
    assert decode.scheduler.held(0.0) == () and not decode.scheduler.has_work
    assert [decode.scheduler.tokens(Owner(name, 1), 0) for name in "abcd"] == [None] * 4


def test_an_orphans_end_frees_what_has_arrived_of_it():
    decode = Decode()
    decode.layers()
    assert decode.slots.totals() == (256, 224)
    assert decode.scheduler.end(A) is False
    assert decode.slots.totals() == (256, 256)
    assert decode.slots.open(layer(1), 0.0) is None


def test_a_cancel_during_a_step_discards_its_token_and_then_frees_the_slots():
    decode = Decode()
    decode.hand_over("a")
    decode.hand_over("b")
    assert decode.batch() == ["a", "b"]
    assert decode.scheduler.end(A)
    assert decode.slots.totals() == (256, 192)
    outcome = decode.scheduler.finish([Sampled(8), Sampled(9)])
    assert [request.owner for request in outcome.reported] == [B]
    assert decode.slots.totals() == (256, 224)
    assert decode.scheduler.commit(commit(job=job())) is None
    assert decode.batch() == ["b"]


@pytest.mark.parametrize("stage", ["transfer", "ready"])
def test_a_cancel_before_admission_frees_the_slots(stage):
    decode = Decode()
    if stage == "transfer":
        decode.layers()
        decode.scheduler.commit(commit(num_transfers=2, job=job()))
    else:
        decode.hand_over()
    assert decode.scheduler.end(A) is False
    assert not decode.scheduler.has_work
    assert decode.slots.totals() == (256, 256)


def test_a_step_without_finite_logits_fails_that_request_for_good():
    decode = Decode()
    decode.hand_over("a")
    decode.hand_over("b")
    decode.scheduler.start()
    outcome = decode.scheduler.finish([None, Sampled(9)])
    assert [(f.owner, f.retryable) for f in outcome.failed] == [(A, False)]
    assert [request.owner for request in outcome.reported] == [B]
    assert decode.scheduler.num_active == 1


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_books_balance(seed):
    rng, decode = random.Random(seed), Decode(num_pages=24, max_batch=3)
    names = [f"r{number}" for number in range(12)]
    for name in names:
        decode.layers(name, prompt_length=8, reserve=8)
        decode.scheduler.commit(commit(name, prompt_length=8, job=job(name, max_tokens=20)))
        for _ in range(rng.randrange(4)):
            boundary = decode.scheduler.start()
            owners = [request.owner for request in boundary.batch]
            assert len(owners) <= 3
            slots = [
                slot
                for entry in decode.scheduler.entries()
                for span in entry.spans
                for slot in range(*span)
            ]
            assert len(slots) == len(set(slots))
            if rng.random() < 0.5:
                decode.scheduler.end(Owner(rng.choice(names), 1))
            decode.scheduler.finish([Sampled(rng.choice([EOS, 9])) for _ in owners])
    while decode.scheduler.has_work:
        decode.step()
    assert decode.slots.totals() == (384, 384)


def test_the_engine_gets_the_ids_up_to_the_last_token():
    decode = Decode()
    decode.layers()
    made = job(first=5, sampling=Sampling(frequency_penalty=1.0))
    decode.scheduler.commit(commit(job=structs.replace(made, past=bytes(80))))
    counts = []
    for _ in range(3):
        _, [entry], _ = decode.step(token=9)
        counts.append(dict(zip(*(part.tolist() for part in entry.past.emitted()), strict=True)))
    # an entry's past grows with its request
    assert counts == [{5: 1, 9: 1}, {5: 1, 9: 2}, {5: 1, 9: 3}]
