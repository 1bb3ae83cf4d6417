import numpy as np
import pytest
from msgspec import structs

from common.messages import Sampling
from common.pages import Owner, Span
from services.decode_worker.arrivals import Arrivals
from services.decode_worker.request import Failure, Request
from services.decode_worker.slots import Slots
from tests.services.decode_worker.transfers import NUM_LAYERS, commit, job, layer

A = Owner("a", 1)


def arrivals(num_layers=NUM_LAYERS):
    slots = Slots(8)
    for number in range(num_layers):
        slots.open(layer(number), 0.0)
    return Arrivals(slots)


def test_the_last_transfer_makes_the_request():
    coming = arrivals()
    assert coming.commit(commit(num_transfers=2, job=job(first=6))) is None
    assert A in coming and list(coming) == [A]
    made = coming.commit(commit(rank=1, num_transfers=2, num_layers=0))
    assert isinstance(made, Request)
    assert (made.owner, made.last, made.spans, made.prompt_length) == (A, 6, [Span(0, 32)], 20)
    assert A not in coming


def test_a_repeated_transfer_counts_once_and_the_job_is_waited_for():
    coming = arrivals()
    for rank, num_layers in ((0, 2), (0, 2), (1, 0)):
        early = commit(rank=rank, num_transfers=2, num_layers=num_layers)
        assert coming.commit(early) is None
    assert isinstance(coming.commit(commit(num_transfers=2, job=job())), Request)


def test_missing_layers_and_a_prompt_without_slots_are_failures():
    assert isinstance(arrivals(num_layers=1).commit(commit(job=job())), Failure)
    nothing = commit(num_layers=0, prompt_length=0, job=job())
    made = arrivals(num_layers=0).commit(nothing)
    assert isinstance(made, Failure) and "never arrived" in made.why and made.retryable


def test_what_ended_is_forgotten():
    coming = arrivals()
    coming.commit(commit(num_transfers=2, job=job()))
    coming.end(A)
    coming.end(A)
    assert A not in coming
    assert coming.commit(commit(rank=1, num_transfers=2, num_layers=0)) is None


def test_commits_of_two_plans_of_one_attempt_make_no_request():
    coming = arrivals()
    assert coming.commit(commit(num_transfers=2, job=job(), epoch=1)) is None
    made = coming.commit(commit(rank=1, num_transfers=2, num_layers=0, epoch=2))
    assert isinstance(made, Failure) and made.retryable


def looking_back(past, **changes):
    made = job(sampling=Sampling(presence_penalty=1.0), **changes)
    return structs.replace(made, past=past)


def test_what_penalties_look_at_is_the_prompt_and_all_that_was_emitted_with_token_0():
    ids = np.array([*range(100, 117), 7, 8, 7], "<i4")
    made = arrivals().commit(commit(job=looking_back(ids.tobytes(), first=8, index=3)))
    assert isinstance(made, Request)
    assert [part.tolist() for part in made.past.emitted()] == [[7, 8], [2, 2]]
    assert made.past.seen().tolist() == [*range(100, 117), 7, 8]
    assert made.job.past == b""


def test_nothing_is_kept_where_the_sampling_does_not_look_back():
    made = arrivals().commit(commit(job=job()))
    assert isinstance(made, Request)
    assert made.past is None


@pytest.mark.parametrize("size", [0, 79, 76, 84])
def test_ids_that_are_not_the_prompt_are_a_failure(size):
    made = arrivals().commit(commit(job=looking_back(bytes(size))))
    assert isinstance(made, Failure)
    assert "penalties" in made.why and not made.retryable
