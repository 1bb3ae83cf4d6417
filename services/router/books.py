"""All books of the router, and what joining and leaving mean for them."""

from common.config import Config
from services.router.busy import Busy
from services.router.decisions import Decisions
from services.router.departures import Departures
from services.router.dispatch import Dispatch
from services.router.measuring import Measuring
from services.router.memory import Memory
from services.router.placement import Placement
from services.router.pool import Pool
from services.router.recorder import Recorder
from services.router.registry import Registered, Registry
from services.router.requests import Request, Requests
from services.router.sightings import Sightings
from services.router.speeds import Speeds
from services.router.wall import Wall

GRACE = 4
"""Heartbeats for which a disagreement may last, time for everyone to reach a new router."""


class Books:
    """Members, time, memory, decode slots, turns, requests, disagreements, speeds, and memories."""

    def __init__(self, epoch: int, config: Config) -> None:
        mesh, router = config.mesh, config.router
        grace = GRACE * mesh.heartbeat
        self.registry = Registry(grace, router.no_decode_timeout)
        self.pool = Pool()
        self.memory = Memory()
        self.placement = Placement()
        self.dispatch = Dispatch(epoch, mesh.resend)
        self.requests = Requests(router.max_queue)
        self.sightings = Sightings(grace)
        self.measuring = Measuring()
        self.speeds = Speeds()
        self.wall = Wall()
        self.recorder = Recorder(epoch, self.wall)
        self.decisions = Decisions()
        self.busy = Busy()
        self.departures = Departures()

    def join(self, member: Registered) -> None:
        """Open the books of a new member."""
        hello = member.hello
        if hello.role == "prefill-worker":
            self.pool.join(member.name, hello.node)
            self.memory.join(member.name, hello.total_slots)
            self.dispatch.join(member.name)
        elif hello.role == "decode-worker":
            self.placement.join(member.name, hello.total_slots)

    def leave(self, name: str) -> None:
        """Close the books of a member; its requests are the caller's to end first."""
        self.pool.leave(name)
        self.memory.leave(name)
        self.dispatch.leave(name)
        self.placement.leave(name)
        self.sightings.leave(name)
        self.speeds.leave(name)

    def admit(self, request: Request, slots: int, now: float) -> None:
        """The request's decode instance has all of its KV; may be said again."""
        assert request.decode is not None, "an admitted request has its place"
        if not request.admitted:
            self.recorder.decoding(request.owner, request.decode, slots, now)
        request.admitted = True
        self.placement.admit(request.owner, request.decode, slots)

    def quiescent(self) -> bool:
        """Whether nothing of any request is left in any book."""
        return not (
            self.requests.owners
            or self.memory.owners
            or self.placement.owners
            or self.sightings.owners
            or any(True for _ in self.pool.tasks)
        )
