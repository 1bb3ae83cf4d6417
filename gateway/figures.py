"""All metrics of the gateway: its own, and those under names that clients' dashboards know."""

from common.events import MeshState
from common.messages import ClusterState
from common.metrics import Metrics
from gateway.window.journey_figures import JourneyFigures
from gateway.window.mesh_figures import MeshFigures
from gateway.window.standard_figures import StandardFigures


class Figures:
    """Counts and times of requests, measured from their arrival at this gateway."""

    def __init__(
        self, metrics: Metrics, model: str, max_len: int = 131_072, compat: str = "vllm"
    ) -> None:
        # Where nobody wants the names of others, they go where nobody looks.
        standard = StandardFigures(metrics if compat == "vllm" else Metrics(), model, max_len)
        self.standard = standard
        self.ttft, self.itl, self.e2e = standard.ttft, standard.itl, standard.e2e
        self.prompt_tokens = standard.prompt_tokens
        self.generation_tokens = standard.generation_tokens
        self.ended = standard.ended
        self.members = MeshFigures(metrics)
        self.journeys = JourneyFigures(metrics)
        self.events_lost = metrics.counter(
            "tetris_events_lost", "Events of the router that never came."
        )
        self.open = metrics.gauge("tetris_gateway_open_requests", "Requests being served.")
        self.ignored = metrics.counter(
            "tetris_gateway_ignored_parameters", "Unknown fields of requests."
        )
        self.refused = metrics.counter(
            "tetris_gateway_refused", "Requests refused or failed.", ["status"]
        )
        self.stray = metrics.counter(
            "tetris_gateway_stray_messages", "Messages of no open request or attempt.", ["type"]
        )
        self.retries = metrics.counter(
            "tetris_gateway_retries", "Attempts after the first of a request."
        )
        self.resends = metrics.counter(
            "tetris_gateway_resends", "Times that decode was asked for missing tokens."
        )

        self._mesh = metrics.gauge(
            "tetris_mesh_in_use", "What the whole mesh holds, as the router last said.", ["of"]
        )

    def mesh(self, state: ClusterState) -> None:
        """Show what the mesh holds; all of it goes back to 0 when nobody asks for anything."""
        for name in ("requests", "waiting", "prefill_slots", "decode_slots", "backends"):
            self._mesh.labels(name).set(getattr(state, name))
        self.standard.running.set(max(0, state.requests - state.waiting))
        self.standard.waiting.set(state.waiting)

    def described(self, state: MeshState) -> None:
        """Show the members and the schedule."""
        self.members.take(state)
        used, total = (sum(getattr(m, key) for m in state.decode) for key in ("used", "total"))
        self.standard.kv_cache_usage.set(used / max(total, 1))
