"""Peers that speak nonsense, or another version, while the mesh serves."""

import random
from collections.abc import Sequence
from urllib.parse import urlsplit

import zmq
from msgspec import structs

from common.messages import PROTOCOL, Hello, KvLayout, ModelCard, Peer, Refused
from common.wire import CONTROL, Frame
from tests.faults.trial import Trial
from tests.processes.test_hostile import GARBAGE, STRANGE, ports, push

WAIT_MS = 10_000
MUTATIONS = 60


def gets_nonsense(trial: Trial) -> None:
    """F21, F22: torn, bent and oversized messages at every port, in the middle of streams."""
    arena = trial.arena
    lives = dict(arena.mesh.pids())
    running = [trial.start(trial.request(200, 40, "1:60,2")) for _ in range(2)]
    doors = {urlsplit(arena.mesh.url).port, urlsplit(arena.mesh.control).port}
    pushed = 0
    for pid in lives.values():
        for port in ports(pid) - doors:
            messages: list[Sequence[Frame]] = [*GARBAGE, *_mutations(trial.rng)]
            push(port, messages)
            pushed += len(messages)
    for one in running:
        trial.finish(one.stream)
        trial.assert_untouched(one)
    assert arena.mesh.pids() == lives, "a process died of it"
    trial.notes.append(f"{pushed} malformed messages")


def meets_other_versions(trial: Trial) -> None:
    """F32: who speaks another protocol or serves another model is refused, with the reason."""
    running = trial.start(trial.request(200, 16))
    good = Hello(
        role="prefill-worker",
        peer=Peer("stranger", 1, "tcp://127.0.0.1:1"),
        node="n",
        protocol=PROTOCOL,
        model=ModelCard("smollm2", "0" * 64, 8192),
        layout=KvLayout(30, 3, 64, "float32"),
        ring="tcp://127.0.0.1:1",
        balance="tcp://127.0.0.1:1",
        total_slots=1024,
    )
    old = _refusal(trial, structs.replace(good, protocol=PROTOCOL - 1))
    assert f"protocol {PROTOCOL - 1}" in old, old
    other = _refusal(trial, good)
    assert other, "another model"
    trial.notes += [old, other]
    trial.finish(running.stream)
    trial.assert_untouched(running)


def _mutations(rng: random.Random) -> list[list[Frame]]:
    made: list[list[Frame]] = []
    for _ in range(MUTATIONS):
        header = bytearray(CONTROL.encode(rng.choice(STRANGE))[0])
        for _ in range(rng.randint(1, 4)):
            header[rng.randrange(len(header))] ^= 1 << rng.randrange(8)
        made.append([bytes(header[: rng.randint(1, len(header))])])
    return made


def _refusal(trial: Trial, hello: Hello) -> str:
    """What the router answers to a Hello, with an inbox of its own to answer to."""
    pid = trial.arena.pid("router")
    with zmq.Context() as context, context.socket(zmq.PULL) as inbox:
        port = inbox.bind_to_random_port("tcp://127.0.0.1")
        peer = structs.replace(hello.peer, inbox=f"tcp://127.0.0.1:{port}")
        told = CONTROL.encode(structs.replace(hello, peer=peer))
        for door in ports(pid):
            push(door, [told])
        assert inbox.poll(WAIT_MS), "the router says nothing"
        answer, _ = CONTROL.decode(inbox.recv_multipart())
    assert isinstance(answer, Refused), answer
    return answer.reason
