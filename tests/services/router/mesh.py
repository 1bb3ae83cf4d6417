"""A router with its members as names, for tests of all that it does."""

from array import array

from common.config import Config, MeshConfig, ModelConfig, RouterConfig
from common.messages import (
    PROTOCOL,
    BrokerFacts,
    ChunkDone,
    DecodeFacts,
    Ending,
    GatewayFacts,
    Heartbeat,
    Hello,
    KvLayout,
    ModelCard,
    Open,
    Peer,
    PrefillFacts,
    Ready,
    Released,
    RunChunk,
    Sampling,
    Submit,
)
from common.schedule import Schedule
from services.router.router import Router

MODEL = ModelCard("m", "abc", 100_000)
LAYOUT = KvLayout(30, 3, 64, "float32")
FIXED = {"latency": "a100-llama3-8b", "calibrate_seconds": 0.0, "learn": False}
GATEWAY = Peer("g", 1, "in-g")


def hello(role, name, incarnation=1, total=8192):
    worker = role.endswith("worker")
    return Hello(
        role=role,
        peer=Peer(name, incarnation, f"in-{name}" + ("" if incarnation == 1 else "-new")),
        node="node",
        protocol=PROTOCOL,
        model=MODEL,
        layout=LAYOUT if worker else None,
        ring=f"ring-{name}" if role == "prefill-worker" else None,
        balance=f"balance-{name}" if role == "prefill-worker" else None,
        link=f"link-{name}" if role == "decode-worker" else None,
        total_slots=total if worker else 0,
        num_backends=2 if role == "decode-worker" else 0,
    )


class Mesh:
    """A router, its members as names, and all that it has sent."""

    def __init__(self, num_prefill=2, schedule=None, store=None, total=8192, **router):
        config = Config(
            model=ModelConfig(path="", name="m"),
            mesh=MeshConfig(),
            router=RouterConfig(**(FIXED | router)),
            schedule=schedule or Schedule(),
        )
        self.sent = []
        self.total = total
        # All have joined long ago, and were heard just now.
        self.now = -10.0
        self.router = Router(config, Peer("router", 77, "in-router"), self.take, store=store)
        self.prefill = [f"p{index}" for index in range(num_prefill)]
        for name in self.prefill:
            self.give(hello("prefill-worker", name, total=total))
        self.give(hello("kv-transfer", "b"))
        self.give(hello("decode-worker", "d", total=2 * total))
        self.give(hello("gateway", "g"))
        self.sent.clear()
        self.now = 0.0
        for member in self.router.books.registry.members:
            member.seen = self.now

    def take(self, endpoint, message, *frames):
        self.sent.append((endpoint, message, frames))

    def give(self, message, *frames):
        self.router.handle(message, frames, self.now)

    def sent_of(self, kind):
        return [(to, message) for to, message, _ in self.sent if isinstance(message, kind)]

    def submit(self, name="r", length=1000, attempt=1, **changes):
        fields = {"reply": GATEWAY, "ending": Ending(max_tokens=10), "sampling": Sampling()}
        fields |= changes
        submit = Submit(
            request=name,
            attempt=attempt,
            num_tokens=length,
            num_emitted=0,
            **fields,
        )
        self.give(submit, array("i", range(length)).tobytes())
        return submit

    def beat(self, name, received=0, finished=0, running=None, held=(), epoch=77):
        facts = PrefillFacts(epoch, received, finished, self.total, self.total, running, held)
        self.give(Heartbeat("prefill-worker", name, 1, facts, f"in-{name}"))

    def decode_beat(self, active=0, held=(), name="d"):
        facts = DecodeFacts(2 * self.total, 2 * self.total, active, 1, held)
        self.give(Heartbeat("decode-worker", name, 1, facts, f"in-{name}"))

    def broker_beat(self, held=(), name="b"):
        self.give(Heartbeat("kv-transfer", name, 1, BrokerFacts(2, 0, 0, held), f"in-{name}"))

    def gateway_beat(self, *owners, streams=0, incarnation=1):
        facts = GatewayFacts(streams, tuple(Open(*owner, 0) for owner in owners))
        self.give(Heartbeat("gateway", "g", incarnation, facts, "in-g"))

    def beats(self, *owners):
        """One heartbeat of everyone, half a second after the last; the gateway has `owners`."""
        self.now += 0.5
        for name in self.prefill:
            self.beat(name)
        self.broker_beat()
        self.decode_beat()
        self.gateway_beat(*owners, streams=len(owners))
        self.router.tick(self.now)

    def run_all(self):
        """Everybody computes what it was given, and says so."""
        for to, run in self.sent_of(RunChunk):
            self.give(Ready(to[3:], 1, run.seq, run.turn))
            self.give(done(run, to[3:]))
            self.give(Released(to[3:], 1, run.request, run.attempt))


def done(run, name):
    return ChunkDone(
        name, 1, run.seq, run.turn, run.request, run.attempt, run.index, 0.1, 0.0, 0.0, 0.0, 0, 0
    )
