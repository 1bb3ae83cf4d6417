"""KV over a real link: what arrives, what is dropped, and a whole hand-over in one process."""

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec
import pytest
import torch

from common.config import Config, ModelConfig, PrefillConfig
from common.links.zmq import ZmqLink
from common.messages import (
    Chunk,
    Ending,
    Grant,
    KvAck,
    KvCommit,
    KvLayer,
    KvLayout,
    Member,
    Peer,
    Release,
    RunChunk,
    Sampling,
    Target,
    Token,
)
from common.pages import Owner, PagePool, Span, take
from common.sharding import num_tokens, owner_of_last, shards
from common.tensor.kv_cache import KvCache, pack
from services.decode_worker.kv_receiver import KvReceiver
from services.decode_worker.slots import Slots
from services.kv_transfer.receive_manager import Granted, ReceiveManager
from services.prefill_worker.kv_sender import KvSender
from services.prefill_worker.send_manager import Key, SendManager

LAYOUT = KvLayout(num_layers=3, num_kv_heads=2, head_dim=4, dtype="float32")
BIND = "tcp://127.0.0.1:*"
SECONDS = 20.0


@contextmanager
def running(*runs: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=run, args=(stop,)) for run in runs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class Decode:
    """A decode instance reduced to its pages: one request, slots in two spans."""

    def __init__(self, layout: KvLayout = LAYOUT) -> None:
        self.cache = KvCache(layout, 8)
        self.cache.keys.zero_()
        self.spans: list[Span] | None = [Span(32, 40), Span(0, 16)]
        self.commits: queue.Queue[KvCommit] = queue.Queue()
        self.num_copied = 0
        self.receiver = KvReceiver(
            self.cache, BIND, lambda message: self.spans, self.copied, self.commits.put
        )
        self.link = ZmqLink(BIND)

    def copied(self) -> None:
        self.num_copied += 1

    def layer(self, layer: int = 0, **changes: object) -> KvLayer:
        message = KvLayer(
            request="a",
            attempt=1,
            chunk=0,
            rank=0,
            layer=layer,
            backend=0,
            generation=5,
            intervals=((2, 5), (9, 11)),
            prompt_length=20,
            reserve=24,
            reply=self.link.endpoint,
            incarnation=1,
        )
        return msgspec.structs.replace(message, **changes)

    def commit(self, **changes: object) -> KvCommit:
        message = KvCommit(
            request="a",
            attempt=1,
            chunk=0,
            rank=0,
            backend=0,
            generation=5,
            num_transfers=1,
            num_layers=3,
            num_tokens=5,
            prompt_length=20,
            reserve=24,
            broker="tcp://127.0.0.1:1",
            reply=self.link.endpoint,
            incarnation=1,
        )
        return msgspec.structs.replace(message, **changes)

    def send(self, message: KvLayer | KvCommit, *frames: bytes | memoryview) -> None:
        self.link.send(self.receiver.endpoint, message, *frames)

    def acked(self) -> int:
        received = self.link.receive(SECONDS)
        assert received is not None
        assert isinstance(received[0], KvAck)
        return received[0].layer


@pytest.fixture
def decode() -> Iterator[Decode]:
    decode = Decode()
    with running(decode.receiver.run):
        yield decode
    decode.link.close()


def random_kv(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 2, 4), torch.randn(count, 2, 4)


def test_slots_of_a_request_that_ends_go_back_without_any_further_kv(decode: Decode) -> None:
    slots = Slots(8)
    decode.receiver = KvReceiver(
        decode.cache, BIND, partial(slots.open, now=0.0), slots.copied, decode.commits.put
    )
    with running(decode.receiver.run):
        decode.send(decode.layer(), *map(pack, random_kv()))
        assert decode.acked() == 0
        assert slots.totals() == (128, 96)
        slots.end(Owner("a", 1))
        assert slots.totals() == (128, 128)


def test_a_layer_without_room_is_not_acknowledged_until_there_is_some(decode: Decode) -> None:
    slots = Slots(2)
    decode.receiver = KvReceiver(
        decode.cache, BIND, partial(slots.open, now=0.0), slots.copied, decode.commits.put
    )
    slots.reserve(Owner("b", 1), 16, 0.0)
    with running(decode.receiver.run):
        decode.send(decode.layer(0), *map(pack, random_kv()))
        decode.send(decode.layer(9), *map(pack, random_kv()))
        decode.send(decode.commit(num_layers=1))
        assert decode.acked() == 1
        assert decode.receiver.dropped == {"room": 1, "field": 1}
        slots.end(Owner("b", 1))
        decode.send(decode.layer(0), *map(pack, random_kv()))
        assert decode.acked() == 0


def test_slots_are_let_go_even_of_a_layer_that_does_not_fit(decode: Decode) -> None:
    decode.send(decode.layer(0, prompt_length=25), *map(pack, random_kv()))
    decode.send(decode.layer(1), *map(pack, random_kv()))
    assert decode.acked() == 1
    assert decode.receiver.dropped["size"] == 1
    assert decode.num_copied == 2


def test_a_layer_lies_in_the_slots_of_its_positions(decode: Decode) -> None:
    keys, values = random_kv()
    decode.send(decode.layer(1), pack(keys), pack(values))
    assert decode.acked() == 1
    slots = [Span(34, 37), Span(1, 3)]
    stored_keys, stored_values = decode.cache.read(1, slots)
    assert torch.equal(stored_keys, keys)
    assert torch.equal(stored_values, values)
    assert decode.cache.keys.count_nonzero() == keys.count_nonzero()


def test_a_layer_that_comes_twice_is_acknowledged_twice(decode: Decode) -> None:
    keys, values = random_kv()
    for _ in range(2):
        decode.send(decode.layer(), pack(keys), pack(values))
        assert decode.acked() == 0
    assert torch.equal(decode.cache.read(0, [Span(34, 37), Span(1, 3)])[0], keys)


def test_kv_of_an_ended_request_is_acknowledged_and_dropped(decode: Decode) -> None:
    decode.spans = None
    keys, values = random_kv()
    decode.send(decode.layer(), pack(keys), pack(values))
    assert decode.acked() == 0
    assert decode.cache.keys.count_nonzero() == 0


def test_a_repeated_commit_is_passed_on_even_after_its_backend_was_lent_again(
    decode: Decode,
) -> None:
    for message in (decode.commit(), decode.commit(rank=1, generation=6), decode.commit()):
        decode.send(message)
        assert decode.acked() == LAYOUT.num_layers
    assert [decode.commits.get_nowait().rank for _ in range(3)] == [0, 1, 0]
    assert decode.commits.empty()


@pytest.mark.parametrize(
    ("changes", "size", "reason"),
    [
        ({"generation": 4}, 160, "stale"),
        ({}, 156, "size"),
        ({}, 0, "size"),
        ({"layer": 3}, 160, "field"),
        ({"intervals": ((2, 5), (19, 21))}, 160, "field"),
        ({"intervals": ((5, 2), (2, 10))}, 160, "field"),
        ({"prompt_length": 25}, 160, "size"),
        ({"backend": 1024}, 160, "field"),
    ],
)
def test_what_does_not_fit_is_dropped_and_counted(
    decode: Decode, changes: dict[str, object], size: int, reason: str
) -> None:
    keys, values = random_kv()
    decode.send(decode.layer(), pack(keys), pack(values))
    assert decode.acked() == 0
    decode.send(decode.layer(**changes), bytes(size), bytes(size))
    decode.send(decode.layer(2), pack(keys), pack(values))
    assert decode.acked() == 2  # no other acknowledgement came before
    assert decode.receiver.dropped == {reason: 1}
    assert torch.equal(decode.cache.read(0, [Span(34, 37), Span(1, 3)])[0], keys)


def test_other_link_messages_and_dead_reply_addresses_are_counted(decode: Decode) -> None:
    decode.link.send(decode.receiver.endpoint, KvAck("a", 1, 0, 0, 0, 5))
    decode.send(decode.commit(reply="nonsense"))
    decode.send(decode.commit(rank=1))
    assert decode.acked() == LAYOUT.num_layers
    assert decode.receiver.dropped == {"type": 1, "ack": 1}


class Handover:
    """Everything between the engines: members, broker and decode, driven by one loop."""

    def __init__(self, layout: KvLayout, plans: dict[str, tuple[Chunk, ...]], seed: int) -> None:
        self.layout, self.plans, self.random = layout, plans, random.Random(seed)
        torch.manual_seed(seed)
        self.config = Config(
            model=ModelConfig(path="/m", name="m"), prefill=PrefillConfig(window=2)
        )
        self.kv = {name: self._random_kv(plan) for name, plan in plans.items()}
        self.pool, self.decode = PagePool(64), KvCache(layout, 64)
        self.pages = {
            name: self.pool.allocate(Owner(name, 1), _prompt(plan)) for name, plan in plans.items()
        }
        self.events: queue.Queue[tuple[int, KvAck] | KvCommit] = queue.Queue()
        self.receiver = KvReceiver(
            *(self.decode, BIND, lambda message: self.pages[message.request]),
            *(lambda: None, self.events.put),
        )
        self.target = Target("d", 1, "tcp://d:1", self.receiver.endpoint, 1, "tcp://b:1")
        self.broker = ReceiveManager(1)
        self.caches = [KvCache(layout, 64) for _ in range(2)]
        self.senders = [KvSender(cache, BIND) for cache in self.caches]
        peers = [Peer(f"p{rank}", 1, f"tcp://p:{rank}") for rank in range(2)]
        self.sends = [SendManager(sender.endpoint, layout, self.config) for sender in self.senders]
        self.inboxes = {peer.inbox: rank for rank, peer in enumerate(peers)}
        self.commits: list[KvCommit] = []
        self.num_through = 0

    def runs(self) -> list[Callable[[threading.Event], None]]:
        """What the threads do."""

        def sending(rank: int) -> Callable[[threading.Event], None]:
            on_ack = partial(self._on_ack, rank)
            return lambda stop: self.senders[rank].run(stop, on_ack)

        return [self.receiver.run, sending(0), sending(1)]

    def _on_ack(self, rank: int, ack: KvAck) -> None:
        self.events.put((rank, ack))

    def _random_kv(self, plan: tuple[Chunk, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (self.layout.num_layers, _prompt(plan), 2, 4)
        dtype = getattr(torch, self.layout.dtype)
        return torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)

    def _run(self, name: str, index: int, rank: int) -> RunChunk:
        plan = self.plans[name]
        members = tuple(
            Member(f"p{i}", 1, f"tcp://p:{i}", "tcp://r:1", "tcp://s:1")
            for i in range(plan[-1].size)
        )
        return RunChunk(
            epoch=1,
            seq=1,
            turn=1,
            request=name,
            attempt=1,
            index=index,
            chunks=plan,
            members=members,
            rank=rank,
            target=self.target,
            gateway=Peer("g", 1, "tcp://g:1"),
            router="tcp://r:1",
            num_emitted=0,
            reserve=_prompt(plan) + 4,
            sampling=Sampling(),
            ending=Ending(max_tokens=4),
            predicted=0.0,
        )

    def compute(self, name: str, index: int, rank: int, pool: PagePool) -> None:
        """Put a member's shards into its cache as an engine would, and report them."""
        chunk, key = self.plans[name][index], Key(name, 1, index)
        own = shards(chunk, rank)
        count = num_tokens(own)
        spans = take(pool.allocate(Owner(name, 1), count), 0, count) if count else []
        self.sends[rank].begin(self._run(name, index, rank))
        keys, values = self.kv[name]
        for layer in range(self.layout.num_layers):
            pieces = [
                torch.cat([kv[layer, start:stop] for start, stop in own]) for kv in (keys, values)
            ]
            self.caches[rank].write(layer, spans, *pieces)
            self.sends[rank].on_layer(key, layer, spans, time.monotonic())
            self.pump()
        is_owner = index == len(self.plans[name]) - 1 and rank == owner_of_last(chunk)
        first = Token(name, 1, 0, 7) if is_owner else None
        self.sends[rank].on_computed(key, first, time.monotonic())

    def pump(self) -> None:
        """Carry out what is due at every member."""
        for sends, sender in zip(self.sends, self.senders, strict=True):
            due = sends.due(time.monotonic())
            assert due.stalled == []
            self.num_through += len(due.through)
            for handshake in due.handshakes:
                self._grant(self.broker.handshake(handshake, time.monotonic()))
            for parcel in due.parcels:
                sender.submit(parcel)

    def _grant(self, loans: list[Granted]) -> None:
        for loan in loans:
            assert isinstance(loan.grant, Grant)
            self.sends[self.inboxes[loan.inbox]].receive(loan.grant, time.monotonic())

    def wait(self) -> None:
        event = self.events.get(timeout=SECONDS)
        if isinstance(event, KvCommit):
            self.commits.append(event)
            place = (event.request, event.attempt, event.chunk, event.rank)
            self._grant(self.broker.release(Release(*place, self.target.name, 1)))
        else:
            rank, ack = event
            self.sends[rank].receive(ack, time.monotonic())

    def run(self) -> None:
        pools = [PagePool(64) for _ in self.caches]
        work = [[(name, index) for index in range(len(plan))] for name, plan in self.plans.items()]
        while any(work):
            name, index = self.random.choice([chunks for chunks in work if chunks]).pop(0)
            for rank in range(self.plans[name][index].size):
                self.compute(name, index, rank, pools[rank])
        members = sum(plan[-1].size for plan in self.plans.values())
        while self.num_through < members:
            self.pump()
            if self.num_through < members:
                self.wait()


def _prompt(plan: tuple[Chunk, ...]) -> int:
    return plan[-1].history + plan[-1].length


def random_plan(rng: random.Random) -> tuple[Chunk, ...]:
    chunks, history, size = [], 0, 1
    for _ in range(rng.randint(1, 3)):
        length, size = rng.randint(1, 40), rng.randint(size, 2)
        chunks.append(Chunk(history, length, size))
        history += length
    return tuple(chunks)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", range(4))
def test_all_kv_of_several_requests_arrives_through_one_backend(seed: int, dtype: str) -> None:
    rng = random.Random(seed)
    plans = {f"r{number}": random_plan(rng) for number in range(3)}
    layout = msgspec.structs.replace(LAYOUT, dtype=dtype)
    handover = Handover(layout, plans, seed)
    with running(*handover.runs()):
        handover.run()
    for name, plan in plans.items():
        spans = take(handover.pages[name], 0, _prompt(plan))
        for layer in range(layout.num_layers):
            keys, values = handover.decode.read(layer, spans)
            assert torch.equal(keys, handover.kv[name][0][layer])
            assert torch.equal(values, handover.kv[name][1][layer])
        transfers = sum(chunk.size for chunk in plan)
        commits = [commit for commit in handover.commits if commit.request == name]
        assert [commit.num_transfers for commit in commits] == [transfers] * transfers
        assert sum(commit.job is not None for commit in commits) == 1
        assert sum(commit.num_tokens for commit in commits) == _prompt(plan)
    assert handover.broker.reserved == 0
    assert handover.receiver.dropped == {}
    assert [sender.dropped for sender in handover.senders] == [0, 0]
