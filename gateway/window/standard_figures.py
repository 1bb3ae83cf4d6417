"""Figures under vLLM's names, with its labels and buckets, which dashboards and tools look for.

Nothing is told that would not be true: prompts are not cached between requests, so that there are
no figures of a prefix cache, and KV does not travel over NIXL.
"""

from collections.abc import Sequence
from itertools import count
from typing import Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

from common.metrics import Metrics

ENGINE = "0"
"""The whole mesh serves as one engine."""
Outcome = Literal["stop", "length", "abort", "error"]
Rejection = Literal["gateway_full", "overload", "too_large", "other"]


def _buckets(text: str) -> tuple[float, ...]:
    return tuple(float(bound) for bound in text.split())


TTFT = _buckets(".001 .005 .01 .02 .04 .06 .08 .1 .25 .5 .75 1 2.5 5 7.5 10 20 40 80 160 640 2560")
ITL = _buckets(".01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 5 7.5 10 20 40 80")
REQUEST = _buckets(".3 .5 .8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680")


def rejection(status: int) -> Rejection:
    """Why the router has not taken a request in, by the status of its answer."""
    return "overload" if status in (429, 503) else "too_large" if status == 400 else "other"


def up_to(longest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 and so on, as far as they are not larger than `longest`."""
    bounds: list[float] = []
    for exponent in count():
        for mantissa in (1, 2, 5):
            bound = mantissa * 10**exponent
            if bound > longest:
                return tuple(bounds)
            bounds.append(float(bound))
    raise AssertionError("counting has no end")


class StandardFigures:
    """What vLLM tells of an engine, for the whole mesh as this gateway sees it.

    Args:
        metrics: where they are registered.
        model: name in the API.
        max_len: tokens of the longest request.
    """

    def __init__(self, metrics: Metrics, model: str, max_len: int) -> None:
        self._metrics = metrics
        self._model = model
        tokens = up_to(max_len)
        times = self._times
        self.ttft = times("time_to_first_token", "Arrival to first token.", TTFT)
        self.itl = times("inter_token_latency", "Between two tokens of a request.", ITL)
        self.tpot = times(
            "request_time_per_output_token", "Between two tokens, mean of each request.", ITL
        )
        self.e2e = times("e2e_request_latency", "Arrival to last token.", REQUEST)
        self.queue_time = times(
            "request_queue_time", "Planning, waiting for instances, and between chunks.", REQUEST
        )
        self.prefill_time = times(
            "request_prefill_time", "Computing and balancing until the first token came.", REQUEST
        )
        self.decode_time = times("request_decode_time", "First to last token.", REQUEST)
        self.inference_time = times(
            "request_inference_time", "Prefill and decode time together.", REQUEST
        )
        self.prompt_tokens = self._counter(
            "prompt_tokens", "Prompt tokens of requests that began to answer."
        )
        self.generation_tokens = self._counter(
            "generation_tokens", "Tokens received from the mesh."
        )
        self.request_prompt_tokens = self._histogram(
            "request_prompt_tokens", "Prompt tokens of a request.", tokens
        )
        self.request_generation_tokens = self._histogram(
            "request_generation_tokens", "Generated tokens of a request.", tokens
        )
        self.running = self._gauge("num_requests_running", "Requests that have a plan.")
        self.waiting = self._gauge("num_requests_waiting", "Requests without a plan.")
        self.kv_cache_usage = self._gauge(
            "kv_cache_usage_perc", "Used share of all decode instances' KV slots, 0 to 1."
        )
        labels = ["model_name", "engine"]
        self._success = metrics.counter(
            "vllm:request_success", "Ended requests.", [*labels, "finished_reason"]
        )
        self._rejections = metrics.counter(
            "vllm:admission_rejections", "Requests not taken in.", [*labels, "reason"]
        )
        for finish in get_args(Outcome):
            self._success.labels(model, ENGINE, finish)
        for why in get_args(Rejection):
            self._rejections.labels(model, ENGINE, why)

    def ended(self, reason: str) -> None:
        """Count a request's end: stop, length, abort or error."""
        self._success.labels(self._model, ENGINE, reason).inc()

    def rejected(self, reason: Rejection) -> None:
        """Count a request that was not taken in."""
        self._rejections.labels(self._model, ENGINE, reason).inc()

    def _times(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return self._histogram(f"{name}_seconds", text, buckets)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        labels = ["model_name", "engine"]
        made = self._metrics.histogram(f"vllm:{name}", text, buckets, labels)
        return made.labels(self._model, ENGINE)

    def _counter(self, name: str, text: str) -> Counter:
        made = self._metrics.counter(f"vllm:{name}", text, ["model_name", "engine"])
        return made.labels(self._model, ENGINE)

    def _gauge(self, name: str, text: str) -> Gauge:
        made = self._metrics.gauge(f"vllm:{name}", text, ["model_name", "engine"])
        return made.labels(self._model, ENGINE)
