from common.messages import Ending, Peer, Sampling, Submit
from common.pages import Owner
from services.router.requests import Request, Requests


def request(name, attempt=1):
    submit = Submit(name, attempt, Peer("g", 1, "g"), 1, 0, Sampling(), Ending(1))
    return Request(submit, b"\0\0\0\0", parties=frozenset({"g"}))


def test_requests_are_planned_in_their_order_and_repetitions_first():
    requests = Requests(10)
    for one in (request("a"), request("b"), request("c", attempt=2)):
        requests.add(one)
    order = []
    while (head := requests.head()) is not None:
        requests.planned(head)
        order.append(head.owner.request)
    assert order == ["c", "a", "b"]
    assert len(requests) == 3


def test_the_queue_is_bounded_with_room_for_repetitions():
    requests = Requests(1)
    assert not requests.full(retry=False)
    requests.add(request("a"))
    assert requests.full(retry=False)
    assert not requests.full(retry=True)
    requests.add(request("b", attempt=2))
    assert requests.full(retry=True)


def test_what_has_ended_or_is_superseded_is_over():
    requests = Requests(10)
    requests.add(request("a", attempt=3))
    assert requests.is_over(Owner("a", 2))
    assert not requests.is_over(Owner("a", 3))
    assert requests.end(Owner("a", 2)) is None
    assert requests.end(Owner("a", 3)).owner == Owner("a", 3)
    assert requests.is_over(Owner("a", 3))
    assert requests.end(Owner("a", 3)) is None
    assert requests.owners == set()
    assert requests.head() is None


def test_requests_are_found_by_what_holds_something_of_them():
    requests = Requests(10)
    requests.add(request("a"))
    assert [one.owner.request for one in requests.involving("g")] == ["a"]
    assert requests.involving("p") == []
