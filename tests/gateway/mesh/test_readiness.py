from common.messages import ClusterState
from gateway.mesh.readiness import STALE, Readiness


def test_ready_needs_one_of_each_and_a_router_that_was_heard_lately() -> None:
    readiness = Readiness()
    assert not readiness.known
    assert readiness.missing(0.0) == ["router"]
    readiness.receive(ClusterState(1, 0, 1, 0, 0), 5.0)
    assert readiness.known
    assert readiness.missing(5.0) == ["prefill-worker", "kv-transfer"]
    readiness.receive(ClusterState(1, 2, 1, 1, 0), 6.0)
    assert readiness.missing(6.0 + STALE) == []
    assert readiness.missing(6.1 + STALE) == ["router"]
