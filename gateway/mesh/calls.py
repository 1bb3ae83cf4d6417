"""All open requests: their conversation with the mesh, and the messages that belong to each.

A call lives from its Submit until the last piece is with the client. The inbox loop puts tokens
into its stream and wakes the HTTP handler, a timer repeats what got lost; nothing here waits for
a client. What a slow client leaves unread is the stream's journal, bounded by the tokens that
the request may emit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from common import failpoints
from common.messages import (
    Accepted,
    ControlMessage,
    EndOfRequest,
    Failed,
    FirstToken,
    GatewayFacts,
    Open,
    Peer,
    PromptScores,
    Rejected,
    Scored,
    Token,
    TokenBatch,
)
from common.service import Membership, Process
from gateway.errors import Refusal
from gateway.figures import Figures
from gateway.mesh.bell import Bell
from gateway.mesh.call import Call
from gateway.mesh.places import Places
from gateway.mesh.streams import Stream
from gateway.window.journeys import Journeys
from gateway.window.standard_figures import rejection

Answer = Accepted | Rejected | Failed | EndOfRequest


class Calls:
    """All open requests of this gateway."""

    def __init__(self, process: Process, figures: Figures) -> None:
        self.journeys = Journeys(figures)
        self._process = process
        self._figures = figures
        self._open: dict[str, Call] = {}
        self.places = Places(process, figures)

    def __len__(self) -> int:
        return len(self._open)

    # From the HTTP side

    @contextmanager
    def place(self) -> Iterator[float]:
        """A place among the requests being served; gives the arrival. May raise Refusal."""
        with self.places.take():
            yield self._now()

    @contextmanager
    def open(
        self,
        name: str,
        stream: Stream,
        forced_plan: str | None,
        arrival: float,
        deadline: float = inf,
        bell: Bell[Call] | None = None,
    ) -> Iterator[Call]:
        """A submitted call; leaving it tells the mesh to let go of what it may still hold."""
        call = self._open[name] = Call(name, stream, forced_plan, arrival, deadline, bell)
        now, wall = self._now(), self._process.clock.wall()
        self.journeys.opened(name, len(stream.prompt), arrival, now, wall)
        self._submit(call)
        try:
            yield call
        finally:
            del self._open[name]
            self._let_go(call)
            self._count(call)

    def abandon(self) -> None:
        """Fail whatever is open: there is no time left for it."""
        for call in self._open.values():
            call.fail(Refusal(503, "The server is stopping.", retry_after=1.0))

    # From the mesh side

    def facts(self) -> GatewayFacts:
        """What the router must know: calls that it has taken and that are not over."""
        listed = (call for call in self._open.values() if call.attempt.accepted)
        return GatewayFacts(
            streams=self.places.taken,
            open=tuple(
                Open(call.name, call.stream.attempt, len(call.stream.emitted))
                for call in listed
                if call.is_running
            ),
        )

    def fence(self) -> None:
        """The router counts this gateway as lost and has given every attempt up: the next ones.

        Their Submits go out with the next tick, behind the new life's Hello.
        """
        for call in self._open.values():
            if call.is_running:
                self._renew(call)

    async def run(self, membership: Membership) -> None:
        """Tick until cancelled."""
        while True:
            self.tick(self._now(), membership.silence)
            await self._process.clock.sleep(self._process.config.mesh.resend)

    def tick(self, now: float, silence: float = 0.0) -> None:
        """Say again what was not answered, ask for what is missing, give up what stands still.

        `silence` is the seconds since the router was heard.
        """
        stall = self._process.config.gateway.stall_timeout
        # Prompts that nobody takes would pile up in the outbox, before the next router's Hello.
        is_heard = silence <= self._process.config.mesh.dead_after
        for call in self._open.values():
            action = call.due(now, stall)
            if action is None or (action == "submit" and not is_heard):
                continue
            if action == "ask":
                self._ask(call)
                continue
            if action == "renew":
                self._process.log.warning("attempt stands still", request=call.name)
                self._let_go(call)
                self._renew(call)
            self._submit(call)

    def receive(self, message: ControlMessage) -> None:
        """Give a message to the request that it belongs to; others are counted."""
        match message:
            case TokenBatch(decode=decode, tokens=tokens):
                for token in tokens:
                    self._token(token, decode, is_decoding=True)
                self.journeys.joined(message.joined)
            case FirstToken(decode=decode, token=token):
                self._token(token, decode, is_decoding=False)
                self._began(message)
            case Accepted() | Rejected() | Failed() | EndOfRequest():
                call = self._find(message)
                if call is not None:
                    self._answer(call, message)
            case PromptScores():
                self._scores(message)
            case _:
                self._stray(message)

    def _find(self, message: Answer | Token) -> Call | None:
        call = self._open.get(message.request)
        if call is None or not call.is_running or call.stream.attempt != message.attempt:
            self._stray(message)
            return None
        return call

    def _token(self, token: Token, decode: Peer, *, is_decoding: bool) -> None:
        call = self._find(token)
        if call is None:
            return
        if token.finish in ("error", "abort"):
            call.attempt.over()
            call.fail(Refusal(500, "The request was ended by the server."))
            return
        before = len(call.stream.emitted)
        if call.stream.take(token):
            failpoints.hit("gateway.token")
            self._measure(call, token)
        elif token.index != call.attempt.base:  # which decode's first batch says again
            self._stray(token)
        has_grown = len(call.stream.emitted) > before
        now = self._now()
        call.attempt.token(decode, now, is_decoding=is_decoding, has_grown=has_grown)
        call.accept()
        if call.stream.ended:
            self._let_go(call)

    def _began(self, message: FirstToken) -> None:
        self.journeys.began(message)
        name = message.token.request
        call, journey = self._open.get(name), self.journeys.get(name)
        if call is not None and journey is not None:
            call.queued = journey.queued

    def _scores(self, message: PromptScores) -> None:
        # Whoever sends them goes on until it is answered, also when nobody wants them any more.
        scored = Scored(message.request, message.attempt, message.start)
        self._process.mesh.send(message.sender, scored)
        call = self._open.get(message.request)
        if call is None or not call.score(message, self._now()):
            self._stray(message)

    def _answer(self, call: Call, message: Answer) -> None:
        match message:
            case Accepted(predicted_ttft=seconds):
                call.accept(seconds)
            case Rejected():
                self._rejected(call, message)
            case Failed():
                self._failed(call, message)
            case EndOfRequest():
                self._ended(call, message)

    def _rejected(self, call: Call, rejected: Rejected) -> None:
        after = rejected.retry_after
        call.attempt.rejected(self._now() + (after or 0.0))
        # A queue that is full for the moment is no end of what has begun.
        if call.stream.attempt == 1 or rejected.status != 503 or after is None:
            if call.stream.attempt == 1:
                self._figures.standard.rejected(rejection(rejected.status))
            call.fail(Refusal(rejected.status, rejected.reason, retry_after=after))

    def _failed(self, call: Call, failed: Failed) -> None:
        # What went wrong may name machines, which is for the log and not for the client.
        self._process.log.warning(
            "attempt failed",
            request=call.name,
            attempt=failed.attempt,
            what=failed.what,
            why=failed.why,
            evicted=failed.evicted,
        )
        call.attempt.over()
        if failed.retryable:
            self._renew(call, evicted=failed.evicted)
            self._submit(call)
        else:
            call.fail(Refusal(500, "The request failed in the server."))

    def _ended(self, call: Call, end: EndOfRequest) -> None:
        """The attempt is over, but its last token has not come: all others may still come."""
        call.attempt.over()
        if end.reason in ("stop", "length") and call.attempt.only_scores:
            call.attempt.begun = self._now()
        elif end.reason in ("stop", "length") and call.attempt.decode is not None:
            call.accept()
            if call.attempt.may_ask(self._now()):
                self._ask(call)
        else:
            self._renew(call)
            self._submit(call)

    # To the mesh

    def _submit(self, call: Call) -> None:
        if call.is_over:
            return
        failpoints.hit("gateway.submit")
        now = self._now()
        again_at = now + self._process.config.mesh.resend
        message, ids = call.submit(self._process.peer, now, again_at)
        self._process.mesh.send(self._process.config.mesh.router, message, ids)

    def _ask(self, call: Call) -> None:
        decode = call.attempt.decode
        assert decode is not None, "asked for only where it is known"
        self._figures.resends.inc()
        self._process.mesh.send(decode.inbox, call.ask(self._process.peer, self._now()))

    def _let_go(self, call: Call) -> None:
        message = call.let_go()
        if message is not None:
            self._process.mesh.send(self._process.config.mesh.router, message)

    def _renew(self, call: Call, *, evicted: bool = False) -> None:
        if call.is_over:
            return
        call.renew(self._now(), self._process.config.gateway.max_attempts, evicted=evicted)
        if not call.is_over:
            self._figures.retries.inc()

    # Figures

    def _measure(self, call: Call, token: Token) -> None:
        now = self._now()
        self.journeys.token(token, now)
        if call.last is None:
            call.first = now
            self._figures.ttft.observe(now - call.arrival)
            self._figures.prompt_tokens.inc(len(call.stream.prompt))
        else:
            self._figures.itl.observe(now - call.last)
        self._figures.generation_tokens.inc()
        call.last = now

    def _count(self, call: Call) -> None:
        finish = call.stream.finish if call.is_over and not call.failure else None
        outcome, now = finish or ("error" if call.failure else "abort"), self._now()
        self._figures.ended(outcome)
        if finish is not None:
            self._figures.e2e.observe(now - call.arrival)
        self.journeys.closed(call.name, outcome, len(call.stream.emitted), now, call.last or now)

    def _stray(self, message: ControlMessage | Token) -> None:
        self._figures.stray.labels(type(message).__name__).inc()

    def _now(self) -> float:
        return self._process.clock.now()
