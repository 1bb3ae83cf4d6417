import random

import pytest

from common.generation import Sampled
from common.pages import Owner, Span
from services.decode_worker.scheduler import Scheduler
from services.decode_worker.slots import Slots
from tests.services.decode_worker.transfers import NUM_LAYERS, commit, job, layer

EOS = 2
A, B = Owner("a", 1), Owner("b", 1)


class Decode:
    """A scheduler with its slots, fed with whole transfers."""

    def __init__(self, num_pages=16, max_batch=4, grow=16):
        self.slots = Slots(num_pages)
        self.scheduler = Scheduler(self.slots, {EOS}, max_batch, grow)

    def layers(self, request="a", rank=0, num_layers=NUM_LAYERS, **changes):
        for number in range(num_layers):
            self.slots.open(layer(number, request, rank=rank, **changes))
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


def test_a_request_that_cannot_grow_fails_while_the_others_go_on():
    decode = Decode(num_pages=4, grow=16)
    decode.hand_over("a", prompt_length=31, reserve=32, max_tokens=50)
    decode.hand_over("b", prompt_length=20, reserve=32, max_tokens=50)
    assert not decode.step()[0].failed
    boundary, entries, outcome = decode.step()
    [failure] = boundary.failed
    assert failure.owner == A and failure.retryable and "pages" in failure.why
    assert [request.owner for request in outcome.reported] == [B] and len(entries) == 1
    assert decode.slots.totals() == (64, 32)


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
