import math

import numpy as np
import pytest
import torch

from common.errors import RequestFailed
from services.prefill_worker.scoring import Scoring
from tests.services.prefill_worker.plans import plan, run_chunk


def logits_of(num_rows, vocab=30):
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(1)) * 3


def scoring(parts, index, rank, ids, num_top=0):
    run = run_chunk(plan(*parts), index, rank, prompt_logprobs=num_top)
    return Scoring(run, np.array(ids, dtype=np.int32))


def test_a_chunk_with_a_look_ahead_id_scores_it_as_well():
    rows = scoring([(3, 1), (9, 1)], 0, 0, [4, 5, 6, 7])
    logits = logits_of(3)
    rows.add(logits[:1])
    rows.add(logits[1:])
    a, b = rows.scores()
    logprobs = logits.log_softmax(-1)
    assert (a.start, len(a), b.start, len(b)) == (1, 1, 2, 2)
    found = [*a.logprobs.tolist(), *b.logprobs.tolist()]
    expected = [float(logprobs[row, row + 5]) for row in range(3)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_last_row_of_the_prompt_has_nothing_to_predict():
    rows = scoring([(3, 1), (4, 1)], 1, 0, [9, 8, 7, 6])
    rows.add(logits_of(4))
    assert [(one.start, len(one)) for one in rows.scores()] == [(4, 2), (6, 1)]


@pytest.mark.parametrize("ids", [[9], [9, 8]])
def test_one_token_scores_only_what_follows_it(ids):
    rows = scoring([(1, 1)], 0, 0, ids)
    rows.add(logits_of(1))
    assert [one.start for one in rows.scores()] == [1] * (len(ids) - 1)


def test_a_member_without_tokens_has_no_scores():
    assert scoring([(1, 2)], 0, 1, [9]).scores() == ()


def test_alternatives_are_no_more_than_the_model_knows():
    rows = scoring([(2, 1)], 0, 0, [1, 0], num_top=20)
    rows.add(logits_of(2, vocab=4))
    [scores] = rows.scores()
    expected = logits_of(2, vocab=4)[0].log_softmax(-1).sort(descending=True)
    assert scores.top_ids.tolist() == [expected.indices.tolist()]
    assert scores.top_logprobs[0].tolist() == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_what_is_impossible_has_the_lowest_score_and_certainty_is_zero():
    rows = scoring([(2, 1)], 0, 0, [0, 1], num_top=2)
    logits = torch.tensor([[0.0, -math.inf], [0.0, 0.0]])
    rows.add(logits)
    [scores] = rows.scores()
    assert scores.logprobs.tolist() == [-1e9]
    assert scores.top_logprobs.tolist() == [[0.0, -1e9]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_fail_the_request(bad):
    rows, logits = scoring([(5, 1)], 0, 0, [1, 2, 3, 4, 5]), logits_of(5)
    logits[2, 7] = bad
    with pytest.raises(RequestFailed, match="not finite"):
        rows.add(logits)
