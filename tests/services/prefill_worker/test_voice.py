import numpy as np
import pytest
import structlog
from msgspec import structs

from common.config import Config, ModelConfig
from common.errors import Aborted, LinkTimeout, OutOfPages, RequestFailed, TetrisError, WireError
from common.messages import (
    Cancel,
    ControlMessage,
    EndOfRequest,
    Failed,
    Peer,
    PromptScores,
    Ready,
    Released,
    Scored,
    Token,
)
from common.metrics import Metrics
from common.scores import Scores
from common.service import Process
from services.prefill_worker.hands import ChunkResult, Moments
from services.prefill_worker.voice import Voice
from tests.services.prefill_worker.plans import plan, run_chunk

INBOX = "tcp://127.0.0.1:1"
RUN = run_chunk(plan((8, 3)), 0, 0, router="tcp://router:1")


class Rig:
    """A voice, its mesh and its clock."""

    def __init__(self) -> None:
        self.time = 0.0
        self.sent: list[tuple[str, ControlMessage]] = []
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        config = Config(model=ModelConfig(path="/m", name="m"))
        self.process = Process(config, self, self, Metrics(), log, Peer("m0", 1, INBOX), "node-0")
        self.voice = Voice(self.process)

    def now(self) -> float:
        return self.time

    def send(self, endpoint: str, message: ControlMessage) -> None:
        self.sent.append((endpoint, message))


def retryable(error: TetrisError) -> bool:
    rig = Rig()
    rig.voice.lost(RUN, error)
    [(endpoint, failed)] = rig.sent
    assert endpoint == "tcp://router:1"
    assert isinstance(failed, Failed)
    return failed.retryable


def test_what_another_attempt_may_heal_is_retryable() -> None:
    assert all(retryable(error("why")) for error in (LinkTimeout, OutOfPages, Aborted))
    assert not any(retryable(error("why")) for error in (RequestFailed, WireError))


def test_a_failure_is_told_to_the_router_until_it_answers_and_to_the_others_once() -> None:
    rig = Rig()
    rig.voice.failed(RUN, OutOfPages("full"), "tcp://broker:1")
    end = EndOfRequest("r", 1, 0, "error", INBOX)
    failed = Failed("r", 1, "prefill of chunk 0 at m0", "full", retryable=True, sender=INBOX)
    others = [("tcp://broker:1", end), *3 * [(INBOX, end)]]  # broker, decode, two members
    assert rig.sent == [("tcp://router:1", failed), *others]
    rig.time = 0.5
    rig.voice.repeat()
    assert rig.sent[5:] == [("tcp://router:1", failed)]
    rig.voice.settle(EndOfRequest("r", 1, 0, "error"))
    rig.time = 1.0
    rig.voice.repeat()
    assert len(rig.sent) == 6


def test_what_another_worker_says_is_no_answer_of_the_router() -> None:
    rig = Rig()
    rig.voice.finished(RUN, Token("r", 1, 4, 7, finish="stop"), "tcp://broker:1")
    rig.voice.settle(EndOfRequest("r", 1, 5, "stop", "tcp://another:1"))
    rig.sent.clear()
    rig.time = 0.5
    rig.voice.repeat()
    end = EndOfRequest("r", 1, 5, "stop", INBOX)
    assert rig.sent == [("tcp://router:1", end)]
    rig.voice.settle(end)
    rig.time = 1.0
    rig.voice.repeat()
    assert len(rig.sent) == 1


def test_a_former_life_says_nothing_and_the_next_one_does() -> None:
    rig = Rig()
    rig.voice.fence()
    rig.process.renew()
    rig.voice.ready(RUN)
    rig.voice.released(RUN)
    rig.voice.failed(RUN, OutOfPages("full"), "tcp://broker:1")
    assert rig.sent == []
    members = (structs.replace(RUN.members[0], incarnation=2),)
    following = run_chunk(plan((8, 1)), 0, 0, members)
    rig.voice.ready(following)
    rig.voice.released(following)
    said = [message for _, message in rig.sent]
    assert said == [Ready("m0", 2, 1, 1), Released("m0", 2, "r", 1)]


def scored(start: int) -> ChunkResult:
    nothing = np.empty((2, 0))
    scores = Scores(start, np.zeros(2, np.float32), nothing.astype(np.int32), nothing)
    return ChunkResult(None, 1.0, 0.0, 0.0, 0.0, Moments(*4 * [0.0]), 0.5, (scores,))


def test_scores_are_repeated_to_the_gateway_until_it_has_them() -> None:
    rig = Rig()
    for start in (1, 5):
        rig.voice.scores(RUN, scored(start))
    rig.voice.repeat()
    assert [(to, m.start) for to, m in rig.sent if isinstance(m, PromptScores)] == [
        (RUN.gateway.inbox, 1),
        (RUN.gateway.inbox, 5),
    ]
    rig.voice.scored(Scored("r", 1, 1))
    rig.sent.clear()
    rig.time = 0.5
    rig.voice.repeat()
    assert [m.start for _, m in rig.sent if isinstance(m, PromptScores)] == [5]


@pytest.mark.parametrize(
    ("end", "num_sent"),
    [
        (EndOfRequest("r", 1, 1, "length"), 1),
        (EndOfRequest("r", 1, 1, "stop"), 1),
        (EndOfRequest("r", 1, 0, "abort"), 0),
        (EndOfRequest("r", 1, 0, "error", "tcp://another:1"), 0),
        (Cancel("r", 1), 0),
    ],
    ids=str,
)
def test_scores_outlive_the_end_of_their_attempt_unless_it_was_given_up(
    end: EndOfRequest | Cancel, num_sent: int
) -> None:
    rig = Rig()
    rig.voice.scores(RUN, scored(1))
    rig.voice.settle(end)
    rig.voice.repeat()
    assert len(rig.sent) == num_sent


def test_neither_a_failed_attempt_nor_a_former_life_has_scores() -> None:
    rig = Rig()
    rig.voice.scores(RUN, scored(1))
    rig.voice.lost(RUN, OutOfPages("full"))
    assert not [m for _, m in rig.sent if isinstance(m, PromptScores)]
    rig = Rig()
    rig.voice.scores(RUN, scored(1))
    rig.voice.fence()
    rig.process.renew()
    rig.voice.scores(RUN, scored(1))
    rig.voice.repeat()
    assert rig.sent == []
