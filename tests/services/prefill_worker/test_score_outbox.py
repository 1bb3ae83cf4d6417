import numpy as np
import pytest

from common.messages import Alternative, Peer, PromptScores, Score, Scored
from common.pages import Owner
from common.scores import Scores
from common.wire import CONTROL, MAX_HEADER
from services.prefill_worker import score_outbox
from services.prefill_worker.score_outbox import MAX_AGE, WINDOW, ScoreOutbox
from tests.services.prefill_worker.plans import plan, run_chunk

RESEND = 0.5


def scores(start, count, num_top=0):
    ids = np.arange(count * num_top, dtype=np.int32).reshape(count, num_top)
    return Scores(start, -np.arange(count, dtype=np.float32), ids, -ids.astype(np.float32))


def run_of(request="a", attempt=1, gateway="tcp://g:1"):
    peer = Peer("g", 1, gateway)
    return run_chunk(plan((8, 1)), 0, 0, request=request, attempt=attempt, gateway=peer)


def owing(*owed):
    outbox = ScoreOutbox(RESEND)
    for run, what in owed:
        outbox.owe(run, what, 0.0)
    return outbox


def starts(due):
    return [message.start for _, message in due]


def test_scores_go_to_the_gateway_again_and_again_until_it_answers():
    outbox = owing((run_of(), scores(3, 2, num_top=1)))
    top = (Alternative(0, 0.0),), (Alternative(1, -1.0),)
    expected = PromptScores(
        "a", 1, 3, (Score(0.0, top[0]), Score(-1.0, top[1])), "tcp://127.0.0.1:1"
    )
    assert outbox.due(0.0) == [("tcp://g:1", expected)]
    assert outbox.due(0.4) == []
    assert outbox.due(0.5) == [("tcp://g:1", expected)]
    outbox.settle(Scored("a", 1, 3), 0.6)
    outbox.settle(Scored("a", 1, 3), 0.6)
    assert outbox.due(9.0) == []
    assert len(outbox) == 0


@pytest.mark.parametrize(
    "other", [Scored("a", 1, 4), Scored("a", 2, 3), Scored("b", 1, 3), Scored("a", 1, 0)]
)
def test_an_answer_to_something_else_settles_nothing(other):
    outbox = owing((run_of(), scores(3, 2)))
    outbox.settle(other, 0.0)
    assert len(outbox) == 1


@pytest.mark.parametrize("num_top", [0, 1, 20])
def test_long_prompts_are_cut_into_messages_that_a_header_holds(num_top):
    outbox = owing((run_of("r" * 128), scores(7, 5000, num_top)))
    found, messages = [], 0
    while due := outbox.due(float(messages)):
        for _, message in due:
            header, *_ = CONTROL.encode(message)
            assert len(header) < MAX_HEADER / 4
            assert CONTROL.decode([header])[0] == message
            found += range(message.start, message.start + len(message.scores))
            outbox.settle(Scored("r" * 128, 1, message.start), float(messages))
            messages += 1
    assert found == list(range(7, 5007))


def test_a_gateway_gets_a_few_messages_at_a_time_and_the_next_as_it_answers():
    outbox = owing(
        (run_of(), scores(1, 20 * 1024)), (run_of("b", gateway="tcp://h:1"), scores(1, 1))
    )
    first = [1 + 1024 * part for part in range(WINDOW)]
    assert starts(outbox.due(0.0)) == [*first, 1]
    outbox.settle(Scored("a", 1, first[2]), 0.1)
    assert starts(outbox.due(0.1)) == [1 + 1024 * WINDOW]
    assert starts(outbox.due(0.5)) == [*first[:2], *first[3:], 1]


def test_a_gateway_that_answers_nothing_is_given_up_and_the_others_are_not():
    outbox = owing(
        (run_of(), scores(1, 20 * 1024)), (run_of("b", gateway="tcp://h:1"), scores(1, 1024 * 2))
    )
    outbox.settle(Scored("b", 1, 1), 20.0)
    assert {endpoint for endpoint, _ in outbox.due(MAX_AGE)} == {"tcp://g:1", "tcp://h:1"}
    assert [endpoint for endpoint, _ in outbox.due(MAX_AGE + 1)] == ["tcp://h:1"]
    assert len(outbox) == 1
    assert outbox.due(20.0 + MAX_AGE + 1) == []
    assert len(outbox) == 0


def test_what_was_given_up_is_not_sent_any_more_also_what_comes_later():
    outbox = owing((run_of(), scores(1, 4)), (run_of(attempt=2), scores(1, 4)))
    outbox.forget(Owner("a", 1))
    outbox.owe(run_of(), scores(9, 4), 0.0)
    assert [(message.attempt, message.start) for _, message in outbox.due(0.0)] == [(2, 1)]


def test_scores_that_are_owed_twice_are_sent_once():
    outbox = owing((run_of(), scores(1, 4)), (run_of(), scores(1, 4)))
    assert starts(outbox.due(0.0)) == [1]
    outbox.settle(Scored("a", 1, 1), 0.0)
    assert len(outbox) == 0


def test_a_new_life_owes_nothing():
    outbox = owing((run_of(), scores(1, 4)))
    outbox.clear()
    assert outbox.due(0.0) == []


@pytest.mark.parametrize(("limit", "value"), [("MAX_PARTS", 3), ("MAX_VALUES", 3 * 4096)])
def test_too_many_push_out_the_oldest_of_who_was_silent_longest(monkeypatch, limit, value):
    monkeypatch.setattr(score_outbox, limit, value)
    outbox = ScoreOutbox(RESEND)
    outbox.owe(run_of(), scores(1, 2048, num_top=3), 0.0)
    outbox.owe(run_of("b", gateway="tcp://h:1"), scores(1, 2048, num_top=3), 1.0)
    assert [(message.request, message.start) for _, message in outbox.due(1.0)] == [
        ("a", 1025),
        ("b", 1),
        ("b", 1025),
    ]
    for request, start in (("a", 1025), ("b", 1), ("b", 1025)):
        outbox.settle(Scored(request, 1, start), 2.0)
    outbox.owe(run_of("c"), scores(1, 3 * 1024, num_top=3), 3.0)
    assert len(outbox) == 3


def test_what_is_too_much_alone_loses_its_beginning(monkeypatch):
    monkeypatch.setattr(score_outbox, "MAX_PARTS", 2)
    outbox = owing((run_of(), scores(1, 5 * 1024)))
    assert starts(outbox.due(0.0)) == [1 + 3 * 1024, 1 + 4 * 1024]
