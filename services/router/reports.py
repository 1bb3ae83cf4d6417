"""What workers report between their heartbeats, which would say the same a little later."""

from common.messages import Admitted, ChunkDone, DecodeStats, Ready, Released
from common.pages import Owner
from services.router.books import Books
from services.router.tuning import Tuning

Report = Ready | ChunkDone | Released | Admitted | DecodeStats


class Reports:
    """Takes reports into the books."""

    def __init__(self, books: Books, tuning: Tuning) -> None:
        self._books = books
        self._tuning = tuning

    def take(self, report: Report, now: float) -> bool:
        """Note a report; False when it comes from a stranger, or from one who cannot know."""
        member = self._books.registry.find(report.name, report.incarnation)
        match member.role if member is not None else None, report:
            case "prefill-worker", Ready() | ChunkDone() | Released():
                self._prefill(report, now)
                return True
            case "decode-worker", Admitted():
                return self._admitted(report, now)
            case "decode-worker", DecodeStats(facts=facts):
                self._books.placement.refresh(report.name, facts)
                return True
            case _:
                return False

    def _prefill(self, report: Ready | ChunkDone | Released, now: float) -> None:
        books, name = self._books, report.name
        match report:
            case Ready(seq=seq, turn=turn):
                begun = books.pool.ready(name, seq, turn, now)
                if begun is not None:
                    books.recorder.began(begun, now)
            case ChunkDone(seq=seq, turn=turn):
                if books.measuring.lacks(report):
                    books.recorder.computed(report, now)
                    books.decisions.computed(report, now)
                    books.busy.done(report, now)
                # Also when the attempt is over: another member may have reported its end.
                self._tuning.done(report, now)
                owner = Owner(report.request, report.attempt)
                books.departures.computed(owner, name, now)
                if books.pool.is_turn(name, seq, turn):
                    books.pool.finished(name, turn)
                    # Turns run in their order: what is done has come, and all before it.
                    books.dispatch.acknowledge(name, turn)
            case Released(request=request, attempt=attempt):
                owner = Owner(request, attempt)
                books.departures.released(owner, name, now)
                if books.memory.release(owner, name):
                    books.recorder.handed_over(owner, name, now)

    def _admitted(self, admitted: Admitted, now: float) -> bool:
        request = self._books.requests.get(Owner(admitted.request, admitted.attempt))
        if request is None or request.decode != admitted.name:
            return False
        self._books.admit(request, admitted.slots, now)
        return True
