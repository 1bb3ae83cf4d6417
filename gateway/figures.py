"""The gateway's metrics; names and buckets that clients' dashboards know are vLLM's."""

from common.messages import ClusterState
from common.metrics import Metrics


def _buckets(text: str) -> tuple[float, ...]:
    return tuple(float(bound) for bound in text.split())


_TTFT = _buckets(".001 .005 .01 .02 .04 .06 .08 .1 .25 .5 .75 1 2.5 5 7.5 10 20 40 80 160 640 2560")
_ITL = _buckets(".01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 5 7.5 10 20 40 80")
_E2E = _buckets(".3 .5 .8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680")


class Figures:
    """Counts and times of requests, measured from their arrival at this gateway."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        label = ["model_name"]
        self.ttft = metrics.histogram(
            "vllm:time_to_first_token_seconds", "Arrival to first token.", _TTFT, label
        ).labels(model)
        self.itl = metrics.histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of a request.", _ITL, label
        ).labels(model)
        self.e2e = metrics.histogram(
            "vllm:e2e_request_latency_seconds", "Arrival to last token.", _E2E, label
        ).labels(model)
        self.prompt_tokens = metrics.counter(
            "vllm:prompt_tokens", "Prompt tokens of requests that began to answer.", label
        ).labels(model)
        self.generation_tokens = metrics.counter(
            "vllm:generation_tokens", "Tokens received from the mesh.", label
        ).labels(model)
        self._success = metrics.counter(
            "vllm:request_success", "Ended requests.", [*label, "finished_reason"]
        )
        self._model = model
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

    def ended(self, reason: str) -> None:
        """Count a request's end: stop, length, abort or error."""
        self._success.labels(self._model, reason).inc()
