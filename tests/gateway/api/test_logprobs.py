from common.messages import Alternative, Score, Token
from gateway.api.answers import PromptEntry, TextLogprobs
from gateway.api.logprobs import TextLog, chat_log, joined, prompt_log
from gateway.api.names import Names
from gateway.mesh.scores import Scores

TEXTS = {1: "a", 2: "bc", 3: "bc", 4: "\u4f60"}
NAMES = Names(TEXTS.__getitem__)
IDS = Names(TEXTS.__getitem__, are_ids=True)
TOP = (Alternative(2, -0.5), Alternative(3, -1.0), Alternative(1, -2.0))


def known() -> Scores:
    scores = Scores(3, 3)
    scores.take(1, [Score(-2.0, TOP), Score(-9.0, TOP)])
    return scores


def test_offsets_run_on_from_the_prompt_and_the_first_token_has_no_score() -> None:
    log = TextLog(NAMES, 1)
    parts = [log.prompt([4, 1, 2], known()), log.tokens([Token("r", 1, 0, 3, -1.0, TOP)])]
    assert joined(parts) == TextLogprobs(
        ["\u4f60", "a", "bc", "bc"],
        [None, -2.0, -9.0, -1.0],
        [None, {"bc": -0.5, "a": -2.0}, {"bc": -0.5}, {"bc": -0.5}],
        [0, 1, 2, 4],
    )


def test_tokens_named_by_their_ids_keep_the_offsets_of_their_text() -> None:
    log = TextLog(IDS, 2).tokens([Token("r", 1, 0, 2, -0.5, TOP), Token("r", 1, 1, 1, -2.0, TOP)])
    assert (log.tokens, log.text_offset) == (["token_id:2", "token_id:1"], [0, 2])
    assert log.top_logprobs[1] == {"token_id:2": -0.5, "token_id:3": -1.0, "token_id:1": -2.0}
    (entry,) = chat_log(IDS, [Token("r", 1, 0, 4, -0.5)]).content
    assert (entry.token, bytes(entry.bytes).decode()) == ("token_id:4", "\u4f60")


def test_the_rank_of_a_prompt_token_is_told_where_it_is_known() -> None:
    first, second, third = prompt_log(NAMES, [4, 1, 4], known(), 1)
    likely = PromptEntry(-0.5, 1, "bc")
    assert first is None
    assert second == {1: PromptEntry(-2.0, 3, "a"), 2: likely}
    assert third == {4: PromptEntry(-9.0, None, "\u4f60"), 2: likely}
