"""From the head of the queue to chunks under way: placement, plan, books, one RunChunk each."""

from collections.abc import Callable, Sequence

from common.config import Config
from common.errors import ConfigError, RequestFailed
from common.failpoints import hit
from common.latency import LatencyModel
from common.messages import Hello, Member, Peer, Role, RunChunk, Target
from common.schedule import Schedule
from services.router.books import Books
from services.router.forced import parse
from services.router.memory import plan_slots
from services.router.placement import decode_slots
from services.router.plan import Plan, PoolView
from services.router.pool import Task
from services.router.registry import Registered
from services.router.requests import Request
from services.router.scheduler import Scheduler
from services.router.shadow import Shadow

Send = Callable[..., None]
"""(endpoint, message, *frames); never blocks."""


class Planning:
    """Starts requests in their order, as soon as memory has room for them."""

    def __init__(self, config: Config, books: Books, peer: Peer, send: Send) -> None:
        model = LatencyModel.load(config.router.latency)
        try:
            self.scheduler = Scheduler(config.schedule, model)
        except RequestFailed as error:
            raise ConfigError(f"schedule.{error}") from None
        self._shadow = Shadow(config.router.shadow, self.scheduler)
        self._reserve = config.router.reserve_tokens
        self._books = books
        self._peer = peer
        self._send = send

    def check(self, request: Request) -> None:
        """Whether what the client demands makes sense in any mesh.

        Raises:
            RequestFailed: it does not.
        """
        submit = request.submit
        if submit.forced_plan is not None:
            parse(submit.forced_plan, submit.num_tokens, self.scheduler.model)

    def update(self, schedule: Schedule) -> None:
        """Put another schedule in force: what waits is judged and planned by it from now on.

        Raises:
            RequestFailed: it does not fit the latency model; nothing has changed.
        """
        self.scheduler.update(schedule)
        for request in self._books.requests.waiting:
            request.verdict = request.demand = request.size = None

    def impossible(self, request: Request) -> str | None:
        """Why the mesh of now could not serve the request even if it were empty, if so."""
        version = self._books.registry.version
        if request.verdict is None or request.verdict[0] != version:
            serving = frozenset(self._serving("prefill-worker"))
            request.verdict = version, self._judge(request, serving)
            # A size that was kept since its arrival may have no room in this mesh.
            request.size = None
        return request.verdict[1]

    def start_waiting(self, now: float) -> list[Request]:
        """Start those whose time has come, in their order, until one has to wait for room.

        One that waits for members to come back holds nobody up.

        Returns:
            The requests that have started.
        """
        books, started = self._books, list[Request]()
        waiting = books.requests.waiting
        if not waiting:
            return started
        view, scheduler = books.pool.view(now), self.scheduler
        if scheduler.is_held_up(view):
            return started
        queue = self._possible(waiting)
        view = view.only(self._usable(queue))
        if scheduler.is_held_up(view):
            return started
        in_order = scheduler.ordered(queue, now)
        for request, plan in scheduler.starts(in_order, view, books.memory.free, now):
            decode = self._place(request)
            if decode is None:
                break
            shadow = self._shadow.ttft(plan, books.memory.free(), len(in_order) - 1, now)
            self._commit(request, plan, decode, now, shadow)
            started.append(request)
        return started

    def line(self, now: float) -> tuple[list[Request], PoolView]:
        """Those who wait and can start one day, by arrival, and what they are planned on."""
        queue = self._possible(self._books.requests.waiting)
        return queue, self._books.pool.view(now).only(self._usable(queue))

    def order(self, request: Request, names: frozenset[str], now: float) -> bool:
        """Start a request of the router's own, with its forced plan, on some of these instances.

        Returns:
            False when there is no room for it; nothing of it is left then.
        """
        books, forced = self._books, request.forced
        assert forced is not None, "the router says what it wants"
        view = books.pool.view(now).only(names)
        policy = self.scheduler.policy(0, view, now)
        plan = self.scheduler.admission.forced(
            forced, request.length, view, books.memory.free(), policy
        )
        decode = self._place(request)
        if plan is None or decode is None:
            return False
        books.requests.add(request)
        self._commit(request, plan, decode, now)
        return True

    @property
    def decode(self) -> set[str]:
        """Decode instances that new requests may use."""
        serving = self._books.registry.serving("decode-worker")
        return {member.name for member in serving if member.broker}

    def decode_slots(self, request: Request) -> int:
        """Slots of decode that a request is booked with."""
        submit = request.submit
        reserve = submit.ending.max_tokens if submit.evicted else self._reserve
        return decode_slots(submit.num_tokens, submit.ending.max_tokens, reserve)

    def stuck(self) -> list[tuple[Request, str]]:
        """Waiting requests that are impossible in the mesh of now, and why."""
        judged = [(one, self.impossible(one)) for one in self._books.requests.waiting]
        return [(one, why) for one, why in judged if why is not None]

    def _possible(self, waiting: Sequence[Request]) -> list[Request]:
        return [request for request in waiting if self.impossible(request) is None]

    def _usable(self, queue: Sequence[Request]) -> frozenset[str]:
        """Instances to plan on: not the slow ones, unless somebody could not run without them."""
        serving = frozenset(self._serving("prefill-worker"))
        usable = self._books.speeds.usable(serving)
        if usable != serving and any(self._demands_more(one, usable) for one in queue):
            return serving
        return usable

    def _demands_more(self, request: Request, names: frozenset[str]) -> bool:
        version = self._books.registry.version
        if request.demand is None or request.demand[:2] != (version, names):
            request.demand = version, names, self._judge(request, names) is not None
        return request.demand[2]

    def _judge(self, request: Request, prefill: frozenset[str]) -> str | None:
        books, submit = self._books, request.submit
        totals = {name: total for name, total in books.memory.totals().items() if name in prefill}
        try:
            self.scheduler.admission.check(
                submit.num_tokens, totals, submit.forced_plan, self.scheduler.capacity_policy
            )
        except RequestFailed as error:
            return str(error)
        max_tokens = submit.ending.max_tokens
        largest = books.placement.largest(self._serving("decode-worker"))
        need = decode_slots(submit.num_tokens, max_tokens, max_tokens)
        if largest and need > largest:
            return (
                f"{submit.num_tokens} tokens and max_tokens {max_tokens} need {need} slots of "
                f"decode, the largest instance has {largest}; lower max_tokens or raise "
                "decode.kv_tokens"
            )
        return None

    def _serving(self, role: Role) -> set[str]:
        return {member.name for member in self._books.registry.serving(role)}

    def _place(self, request: Request) -> Registered | None:
        books = self._books
        name = books.placement.choose(self.decode_slots(request), self.decode)
        return None if name is None else books.registry.find(name)

    def _commit(
        self,
        request: Request,
        plan: Plan,
        decode: Registered,
        now: float,
        shadow: float | None = None,
    ) -> None:
        hit("router.plan")
        books, owner = self._books, request.owner
        assert decode.broker is not None, "only placed where there is a broker"
        books.requests.planned(request)
        request.plan, request.decode, request.broker = plan, decode.name, decode.broker
        request.expected = now + plan.ttft
        request.touch(*plan.members, decode.name, decode.broker)
        books.recorder.planned(request, now, shadow)
        books.decisions.add(request, self.scheduler.model, shadow, now)
        books.placement.book(owner, decode.name, self.decode_slots(request))
        tasks = books.pool.commit(owner, plan)
        last = {name: turn for task in tasks for name, turn in task.turns.items()}
        books.memory.reserve(owner, plan_slots(plan), last)
        target = self._target(decode, decode.broker)
        members = tuple(self._member(name) for name in plan.members)
        for task in tasks:
            books.measuring.expect(task, plan.chunks[task.index])
            self._issue(request, task, members, target, now)

    def _issue(
        self, request: Request, task: Task, members: tuple[Member, ...], target: Target, now: float
    ) -> None:
        plan, submit = request.plan, request.submit
        assert plan is not None, "issued after planning"
        chunk = plan.chunks[task.index]
        ids = request.ids[4 * chunk.history : 4 * (chunk.history + chunk.length + 1)]
        looks_back = submit.sampling.looks_back and task.index == len(plan.chunks) - 1
        for rank, name in enumerate(plan.group(task.index)):
            run = RunChunk(
                epoch=self._peer.incarnation,
                seq=task.seq,
                turn=task.turns[name],
                request=submit.request,
                attempt=submit.attempt,
                index=task.index,
                chunks=plan.chunks,
                members=members,
                rank=rank,
                target=target,
                gateway=submit.reply,
                router=self._peer.inbox,
                num_emitted=submit.num_emitted,
                reserve=self.decode_slots(request),
                sampling=submit.sampling,
                ending=submit.ending,
                predicted=task.predicted,
                received=self._books.wall.at(request.arrived),
                planned=self._books.wall.at(now),
                past=request.ids if looks_back else b"",
                prompt_logprobs=submit.prompt_logprobs,
            )
            hit("router.issue")
            self._books.dispatch.send(name, run, ids, now)
            self._send(members[rank].inbox, run, ids)

    def _member(self, name: str) -> Member:
        hello = self._hello(name)
        assert hello.ring is not None and hello.balance is not None, "checked when it joined"
        return Member(name, hello.peer.incarnation, hello.peer.inbox, hello.ring, hello.balance)

    def _target(self, decode: Registered, broker: str) -> Target:
        hello = decode.hello
        assert hello.link is not None, "checked when it joined"
        return Target(
            name=decode.name,
            incarnation=hello.peer.incarnation,
            inbox=decode.inbox,
            link=hello.link,
            num_backends=hello.num_backends,
            broker=self._hello(broker).peer.inbox,
        )

    def _hello(self, name: str) -> Hello:
        member = self._books.registry.find(name)
        assert member is not None, "books name members only"
        return member.hello
