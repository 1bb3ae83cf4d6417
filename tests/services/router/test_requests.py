from common.messages import Cancel, Ending, EndOfRequest, Failed, Peer, Sampling, Submit
from common.pages import Owner
from services.router.requests import Request, Requests

GATEWAY = Peer("g", 1, "g")


def request(name, attempt=1):
    submit = Submit(name, attempt, GATEWAY, 1, 0, Sampling(), Ending(1))
    return Request.of(submit, b"\0\0\0\0")


def cancel(name, attempt=1):
    return Cancel(name, attempt)


def test_requests_start_in_their_order_and_repetitions_first():
    requests = Requests(10)
    for one in (request("a"), request("b"), request("c", attempt=2)):
        requests.add(one)
    order = []
    while requests.waiting:
        order.append(requests.waiting[0].owner.request)
        requests.planned(requests.waiting[0])
    assert order == ["c", "a", "b"]
    assert len(requests) == 3


def test_among_repetitions_the_oldest_request_comes_first():
    requests = Requests(10)
    for name in ("old", "young", "younger"):
        requests.add(request(name))
    for name in ("younger", "old", "young"):
        requests.end(Owner(name, 1), Failed(name, 1, "x", "y", True))
        requests.add(request(name, attempt=2))
    assert [one.owner.request for one in requests.waiting] == ["old", "young", "younger"]
    requests.end(Owner("old", 2), cancel("old", 2))
    requests.add(request("old", attempt=3))
    assert [one.owner.request for one in requests.waiting] == ["old", "young", "younger"]


def test_the_queue_is_bounded_for_each_by_the_share_that_he_may_use():
    requests = Requests(2)
    assert not requests.full(0.5)
    requests.add(request("a"))
    assert requests.full(0.5)
    assert not requests.full(1.0)
    requests.add(request("b", attempt=2))
    assert requests.full(1.0)
    assert not requests.full(2.0)


def test_what_has_ended_or_is_superseded_is_over():
    requests = Requests(10)
    requests.add(request("a", attempt=3))
    assert requests.over(Owner("a", 2)) == cancel("a", 2)
    assert requests.over(Owner("a", 3)) is None
    assert requests.end(Owner("a", 2), cancel("a", 2)) is None
    how = EndOfRequest("a", 3, 5, "stop")
    assert requests.end(Owner("a", 3), how).owner == Owner("a", 3)
    # The first end counts.
    assert requests.end(Owner("a", 3), cancel("a", 3)) is None
    assert requests.over(Owner("a", 3)) == how
    assert requests.owners == set()
    assert requests.waiting == ()


def test_an_adopted_attempt_never_waits():
    requests = Requests(10)
    requests.adopt(Request(Owner("a", 1), GATEWAY, decode="d", admitted=True))
    assert requests.waiting == ()
    assert requests.end(Owner("a", 1), cancel("a")) is not None
    assert len(requests) == 0


def test_an_admitted_attempt_needs_its_decode_instance_and_its_gateway_alone():
    plan = type("Plan", (), {"members": ("p", "q")})()
    one = Request(Owner("a", 1), GATEWAY, plan=plan, decode="d", broker="b")
    peers = [Peer(name, 1, name) for name in ("g", "p", "q", "d", "b", "x")]
    assert [peer.name for peer in peers if one.needs(peer)] == ["g", "p", "q", "d"]
    one.admitted = True
    assert [peer.name for peer in peers if one.needs(peer)] == ["g", "d"]
    assert not one.needs(Peer("g", 2, "g"))


def test_requests_follow_their_decode_instance_to_its_next_broker():
    requests = Requests(10)
    one = Request(Owner("a", 1), GATEWAY, decode="d", broker="b", touched=("d", "b"))
    requests.adopt(one)
    requests.follow("e", "c")
    requests.follow("d", "c")
    requests.follow("d", "b")
    assert (one.broker, one.touched) == ("b", ("d", "b", "c"))
    requests.follow("d", None)
    assert one.broker is None
