"""What this gateway knows of the mesh, and whether requests can be served."""

from common.messages import ClusterState

STALE = 3.0
"""Seconds after which the last state says nothing any more; the router sends one per heartbeat."""


class Readiness:
    """The last state of the mesh; time is an argument."""

    def __init__(self) -> None:
        self._state: ClusterState | None = None
        self._seen = 0.0

    def receive(self, state: ClusterState, now: float) -> None:
        """Take the router's word for how the mesh is."""
        self._state, self._seen = state, now

    @property
    def known(self) -> bool:
        """Whether the router has ever been heard."""
        return self._state is not None

    def missing(self, now: float) -> list[str]:
        """The roles without which nothing is served; empty when ready."""
        if self._state is None or now - self._seen > STALE:
            return ["router"]
        return [role for role, count in self.members().items() if count == 0]

    def members(self) -> dict[str, int]:
        """How many of each role have joined, as the router last said."""
        state = self._state
        if state is None:
            return {}
        return {
            "prefill-worker": state.num_prefill,
            "decode-worker": state.num_decode,
            "kv-transfer": state.num_brokers,
        }
