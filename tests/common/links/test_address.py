from common.links.address import reachable


def test_a_link_is_reached_under_the_host_of_the_inbox() -> None:
    assert reachable("tcp://0.0.0.0:4711", "tcp://worker-3:5550") == "tcp://worker-3:4711"


def test_links_without_a_host_stay_what_they_are() -> None:
    assert reachable("ipc:///run/link", "tcp://worker-3:5550") == "ipc:///run/link"
    assert reachable("tcp://127.0.0.1:4711", "memory") == "tcp://127.0.0.1:4711"
