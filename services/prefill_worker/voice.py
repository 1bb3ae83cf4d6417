"""What a prefill instance says of the chunks that it computes; silent about former lives.

Ends and failures are repeated until the router answers, scores of the prompt until the gateway
does, all else is said once.
"""

from common.errors import Aborted, LinkTimeout, OutOfPages, TetrisError
from common.failpoints import hit
from common.messages import (
    Cancel,
    ChunkDone,
    ControlMessage,
    EndOfRequest,
    Endpoint,
    Failed,
    FirstToken,
    Peer,
    Ready,
    Released,
    RunChunk,
    Scored,
    Times,
    Token,
)
from common.pages import Owner
from common.reports import Reports
from common.service import Process
from services.prefill_worker.hands import ChunkResult
from services.prefill_worker.plan import is_given_up, me, owner_of
from services.prefill_worker.score_outbox import ScoreOutbox
from services.prefill_worker.send_manager import Sent

Report = tuple[Endpoint, Failed | EndOfRequest]


class Voice:
    """The messages of one instance to router, gateways and everybody else of a request."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._reports: Reports[Report] = Reports(process.config.mesh.resend)
        self._scores = ScoreOutbox(process.config.mesh.resend)
        self._past = -1
        """The last incarnation that says nothing any more."""

    def fence(self) -> None:
        """Say nothing more of this life."""
        self._past = self._process.peer.incarnation
        self._reports.clear()
        self._scores.clear()

    def scored(self, message: Scored) -> None:
        """A gateway has some scores, or does not want them."""
        self._scores.settle(message, self._process.clock.now())

    def settle(self, message: EndOfRequest | Cancel) -> None:
        """The router knows of an end; what another worker says of it is no answer."""
        if is_given_up(message):
            self._scores.forget(Owner(message.request, message.attempt))
        sender = message.sender if isinstance(message, EndOfRequest) else None
        if sender in (None, self._process.peer.inbox):
            self._reports.settle(Owner(message.request, message.attempt))

    def repeat(self) -> None:
        """Say what is due of all that was not answered."""
        now = self._process.clock.now()
        for endpoint, message in (*self._reports.due(now), *self._scores.due(now)):
            self._process.mesh.send(endpoint, message)

    def ready(self, run: RunChunk) -> None:
        """This member waits for the chunk's group."""
        self._tell(run, run.router, Ready(*_life(run), run.seq, run.turn))

    def done(self, run: RunChunk, result: ChunkResult, sent: Sent) -> None:
        """The chunk is computed."""
        done = ChunkDone(
            *(*_life(run), run.seq, run.turn, *owner_of(run), run.index),
            *(result.compute, result.wait, result.balance, 0.0),
            sent_bytes=sent.acknowledged,
            total_bytes=sent.total,
            gather=result.gather,
        )
        hit("chunk.done")
        self._tell(run, run.router, done)

    def log(self, run: RunChunk, result: ChunkResult, sent: Sent) -> None:
        """One line for each chunk; times on this host's monotonic clock."""
        ended, chunk = self._process.clock.now(), run.chunks[run.index]
        came = ended - result.compute - result.scoring - result.wait - result.balance
        self._process.log.info(
            "chunk_done",
            request=run.request,
            chunk=run.index,
            size=chunk.size,
            history=chunk.history,
            length=chunk.length,
            came=round(came, 6),
            started=round(came + result.gather, 6),
            ended=round(ended, 6),
            wait=round(result.wait - result.gather, 6),
            balance=round(result.balance, 6),
            scoring=round(result.scoring, 6),
            sent_bytes=sent.acknowledged,
            total_bytes=sent.total,
        )

    def first(self, run: RunChunk, token: Token, times: Times) -> None:
        """Token 0, to the gateway."""
        target = run.target
        decode = Peer(target.name, target.incarnation, target.inbox)
        hit("token.first")
        self._tell(run, run.gateway.inbox, FirstToken(token, decode, times))

    def scores(self, run: RunChunk, result: ChunkResult) -> None:
        """Scores of the prompt, to the gateway."""
        if me(run).incarnation > self._past:
            for scores in result.scores:
                self._scores.owe(run, scores, self._process.clock.now())

    def released(self, run: RunChunk) -> None:
        """Nothing of the attempt is held here any more."""
        self._tell(run, run.router, Released(*_life(run), *owner_of(run)))

    def finished(self, run: RunChunk, token: Token, broker: Endpoint) -> None:
        """Token 0 has ended the request: everybody is to let go of it."""
        assert token.finish is not None
        end = EndOfRequest(*owner_of(run), token.index + 1, token.finish, me(run).inbox)
        self._owe(run, end)
        self._tell_others(run, end, broker)

    def failed(self, run: RunChunk, error: TetrisError, broker: Endpoint) -> None:
        """The attempt cannot go on here: everybody is to let go of it."""
        self.lost(run, error)
        end = EndOfRequest(*owner_of(run), run.num_emitted, "error", me(run).inbox)
        self._tell_others(run, end, broker)

    def lost(self, run: RunChunk, error: TetrisError) -> None:
        """The attempt cannot go on here, as only the router is to know."""
        self._scores.forget(owner_of(run))
        what = f"prefill of chunk {run.index} at {me(run).name}"
        retryable = isinstance(error, LinkTimeout | OutOfPages | Aborted)
        why, sender = str(error)[:2048], me(run).inbox
        self._owe(run, Failed(*owner_of(run), what, why, retryable, sender=sender))

    def _owe(self, run: RunChunk, report: Failed | EndOfRequest) -> None:
        if me(run).incarnation > self._past:
            self._reports.owe(owner_of(run), (run.router, report))
            self.repeat()

    def _tell_others(self, run: RunChunk, end: EndOfRequest, broker: Endpoint) -> None:
        """Everybody but the router, who is told more, lets go of what they hold."""
        others = (member.inbox for rank, member in enumerate(run.members) if rank != run.rank)
        for inbox in (broker, run.target.inbox, *others):
            self._tell(run, inbox, end)

    def _tell(self, run: RunChunk, inbox: Endpoint, message: ControlMessage) -> None:
        if me(run).incarnation > self._past:
            self._process.mesh.send(inbox, message)


def _life(run: RunChunk) -> tuple[str, int]:
    """Who speaks: the life that the chunk was issued to."""
    return me(run).name, me(run).incarnation
