"""How attempts begin and end: the gateways' Submits, and every way to an end.

Whatever ends an attempt closes its books, tells all that ever held something of it, and is
remembered, to be said again to whoever has not heard of it.
"""

from msgspec import structs

from common.errors import RequestFailed
from common.failpoints import hit
from common.messages import (
    MAX_PAST,
    Cancel,
    EndOfRequest,
    Endpoint,
    Failed,
    Peer,
    Rejected,
    Submit,
)
from common.pages import Owner
from services.router.books import Books
from services.router.dispatch import Parcel
from services.router.endings import How, end_of
from services.router.entrance import RETRY_AFTER, Entrance
from services.router.planning import Planning, Send
from services.router.requests import Request


class Attempts:
    """All attempts of all requests, as far as gateways and members hear of them."""

    def __init__(self, books: Books, planning: Planning, entrance: Entrance, send: Send) -> None:
        self._books = books
        self._planning = planning
        self._entrance = entrance
        self._send = send

    def submit(self, submit: Submit, ids: bytes, now: float) -> bool:
        """Take an attempt in, or say again what became of it; False when that has to wait."""
        hit("router.submit")
        requests, gateway = self._books.requests, submit.reply
        request = Request.of(submit, ids, now)
        how, known = requests.over(request.owner), requests.get(request.owner)
        if self._books.registry.removed(gateway.name, gateway.incarnation) is not None:
            return False
        if how is not None:
            return self.repeat(how, gateway.inbox)
        known = known or self.adopted(request.owner, gateway, now)
        if known is not None:
            self._books.sightings.forget(known.owner)
            self._send(gateway.inbox, known.accepted(now))
            return True
        if self._is_on_its_way(request.owner):
            return False
        rejected = self._rejection(request, now)
        if rejected is not None:
            self._send(gateway.inbox, rejected)
            return True
        self._supersede(request.owner, now)
        requests.add(request)
        self._entrance.joined(request)
        if not request.is_retry:
            self._planning.scheduler.arrive(now)
        return True

    def adopted(self, owner: Owner, gateway: Peer, now: float) -> Request | None:
        """Hold an unknown attempt that decode carries on, planned by an older router.

        Returns:
            None when no decode instance has said that it does.
        """
        name = self._books.placement.carrier(owner)
        decode = self._books.registry.find(name) if name is not None else None
        if decode is None:
            return None
        self._supersede(owner, now)
        request = Request(owner, gateway, decode=decode.name, broker=decode.broker, admitted=True)
        request.touch(decode.name)
        self._books.requests.adopt(request)
        return request

    def repeat(self, how: How, gateway: Endpoint) -> bool:
        """Tell a gateway again how its attempt has ended; False when that was its own doing."""
        if isinstance(how, Cancel):
            return False
        self._send(gateway, how)
        return True

    def end(self, owner: Owner, how: How, now: float) -> Request | None:
        """Close an attempt's books and tell all that may hold anything of it, but its gateway.

        Its prefill slots stay booked until their holders release them.

        Returns:
            What it was; None when nobody here knew it.
        """
        books = self._books
        if books.requests.get(owner) is not None:
            hit("router.end")
        request = books.requests.end(owner, how)
        books.sightings.forget(owner)
        if request is None:
            return None
        books.recorder.over(owner, how, now)
        message = how if isinstance(how, Cancel) else end_of(owner, how)
        for inbox in self._inboxes(request):
            self._send(inbox, message)
        if request.decode is not None:
            books.placement.drop(owner, request.decode)
            if request.admitted and request.expected is not None:
                seconds, limit = now - request.expected, request.submit.ending.max_tokens
                books.departures.answered(seconds, limit)
        for name, turn in books.pool.forget(owner):
            parcel = books.dispatch.void(name, turn, now)
            if parcel is not None:
                self.deliver(name, parcel)
        return request

    def fail(self, failed: Failed, now: float) -> Request | None:
        """The gateway hears of it and decides about a new attempt; this one is over."""
        request = self.end(Owner(failed.request, failed.attempt), failed, now)
        if request is not None:
            self._send(request.gateway.inbox, failed)
        return request

    def reported(self, message: EndOfRequest | Failed, now: float) -> bool:
        """Act on an end that somebody reports, and answer a reporter that repeats it.

        Returns:
            False when the attempt was unknown or over already, and nobody waits for an answer.
        """
        owner = Owner(message.request, message.attempt)
        how = structs.replace(message, sender=None)
        request = self.fail(how, now) if isinstance(how, Failed) else self.end(owner, how, now)
        told = self._inboxes(request) if request is not None else []
        if message.sender is not None and message.sender not in told:
            self.tell_end(owner, message.sender)
        return request is not None or message.sender is not None

    def reject(self, request: Request, status: int, reason: str, now: float) -> None:
        """Give a waiting request up; a later attempt, which has no time to come back, for good."""
        is_first = request.owner.attempt == 1
        retry_after = RETRY_AFTER if status == 503 and is_first else None
        rejected = Rejected(*request.owner, status, reason[:2048], retry_after)
        self.end(request.owner, rejected, now)
        self._send(request.gateway.inbox, rejected)

    def tell_end(self, owner: Owner, member: Endpoint) -> None:
        """Have one member let go of an attempt that is over."""
        self._send(member, end_of(owner, self._books.requests.over(owner)))

    def deliver(self, name: str, parcel: Parcel) -> None:
        """Send a turn once more, or what has taken its place."""
        member = self._books.registry.find(name)
        if member is not None:
            frames = () if parcel.ids is None else (parcel.ids,)
            self._send(member.inbox, parcel.message, *frames)

    def _is_on_its_way(self, owner: Owner) -> bool:
        """Whether workers still hand an unknown attempt over, as an older router has planned it.

        It is adopted soon or ends as an orphan; a second plan would mix its KV with the first's.
        """
        return owner in self._books.memory.owners or self._books.placement.holds(owner)

    def _inboxes(self, request: Request) -> list[Endpoint]:
        """Where all live that may hold something of it."""
        members = [self._books.registry.find(name) for name in request.touched]
        return [member.inbox for member in members if member is not None]

    def _rejection(self, request: Request, now: float) -> Rejected | None:
        """Why a new attempt is not taken in; None when it is."""
        is_retry = request.owner.attempt > 1
        try:
            self._check(request)
        except RequestFailed as error:
            return Rejected(*request.owner, 400, str(error)[:2048])
        # What was once accepted, or needs members that may come, may also wait for them.
        if not is_retry and not self._books.registry.is_growing(now):
            why = self._planning.impossible(request)
            if why is not None:
                return Rejected(*request.owner, 400, why[:2048])
        return self._entrance.refusal(request, now)

    def _check(self, request: Request) -> None:
        submit = request.submit
        if len(request.ids) != 4 * submit.num_tokens:
            raise RequestFailed(f"{len(request.ids)} bytes are not {submit.num_tokens} token ids")
        limit = self._books.registry.max_model_len
        if limit is not None and submit.num_tokens > limit:
            raise RequestFailed(f"{submit.num_tokens} tokens exceed max_model_len {limit}")
        if submit.sampling.looks_back and len(request.ids) > MAX_PAST:
            raise RequestFailed(
                f"presence_penalty, frequency_penalty and repetition_penalty can look back at "
                f"{MAX_PAST // 4} tokens, there are {submit.num_tokens}"
            )
        self._planning.check(request)

    def _supersede(self, owner: Owner, now: float) -> None:
        """A new attempt ends the one before it."""
        before = self._books.requests.find(owner.request)
        if before is not None:
            self.end(before.owner, Cancel(*before.owner), now)
