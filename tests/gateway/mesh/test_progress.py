from common.messages import Accepted, ClusterState, FirstToken, Open, Peer, Token
from gateway.mesh.progress import Progress

OPEN = (Open("r", 1, 0),)
STATE = ClusterState(1, 1, 1, 1, 0)
TOKEN = FirstToken(Token("r", 1, 0, 5), Peer("decode-0", 1, "memory:d"))


def busy(progress: Progress, now: float) -> None:
    progress.receive(STATE, now)
    progress.see(1, OPEN, now)


def test_nothing_is_wrong_while_nothing_is_open() -> None:
    progress = Progress(patience=30.0)
    assert progress.trouble(1e6) is None
    progress.see(1, OPEN, 0.0)
    progress.see(0, (), 1.0)
    assert progress.trouble(1e6) is None


def test_a_mesh_that_is_silent_while_work_is_open_is_trouble() -> None:
    progress = Progress(patience=30.0)
    progress.receive(STATE, 0.0)
    # Silence before the work began does not count.
    progress.see(1, (), 100.0)
    assert progress.trouble(130.0) is None
    assert "was not heard for 31 s" in (progress.trouble(131.0) or "")
    progress.receive(STATE, 131.0)
    assert progress.trouble(131.0) is None


def test_no_token_for_what_the_router_has_taken_is_trouble() -> None:
    progress = Progress(patience=30.0)
    busy(progress, 100.0)
    busy(progress, 131.0)
    assert "no token came for 31 s" in (progress.trouble(131.0) or "")
    progress.receive(TOKEN, 131.0)
    assert progress.trouble(131.0) is None


def test_what_the_router_has_not_taken_is_not_waited_for() -> None:
    progress = Progress(patience=30.0)
    progress.see(1, (), 0.0)
    progress.receive(STATE, 59.0)
    assert progress.trouble(60.0) is None


def test_a_first_token_may_take_five_times_what_was_predicted() -> None:
    progress = Progress(patience=30.0)
    progress.receive(Accepted("r", 1, predicted_ttft=20.0), 0.0)
    busy(progress, 0.0)
    busy(progress, 100.0)
    assert progress.trouble(100.0) is None
    progress.receive(STATE, 101.0)
    assert progress.trouble(101.0) is not None


def test_a_prediction_is_forgotten_with_its_request() -> None:
    progress = Progress(patience=30.0)
    progress.receive(Accepted("long", 1, predicted_ttft=1000.0), 0.0)
    progress.see(1, (Open("long", 1, 0),), 0.0)
    progress.see(1, OPEN, 10.0)
    progress.receive(STATE, 41.0)
    assert progress.trouble(41.0) is not None


def test_clients_that_give_up_one_after_the_other_do_not_hide_a_standstill() -> None:
    progress = Progress(patience=30.0)
    for now in range(0, 60, 10):
        progress.receive(STATE, now)
        progress.see(1, (Open(f"r{now}", 1, 0),), now)
    assert progress.trouble(50.0) is not None
