"""Plans as the router would make them, for tests."""

from msgspec import structs

from common.messages import Chunk, Ending, Member, Peer, RunChunk, Sampling, Target

PEER = Peer("p", 1, "tcp://127.0.0.1:1")
TARGET = Target("d", 1, "tcp://127.0.0.1:1", "tcp://127.0.0.1:1", 1, "tcp://127.0.0.1:1")


def members_at(rings, balances) -> tuple[Member, ...]:
    """Members whose links are at these endpoints."""
    return tuple(
        Member(f"m{rank}", rank + 1, "tcp://127.0.0.1:1", *links)
        for rank, links in enumerate(zip(rings, balances, strict=True))
    )


def run_chunk(chunks, index, rank, members=None, **changes) -> RunChunk:
    """What the router would send to this rank."""
    nowhere = ["tcp://127.0.0.1:1"] * max(chunk.size for chunk in chunks)
    run = RunChunk(
        epoch=1,
        seq=index + 1,
        turn=index + 1,
        request="r",
        attempt=1,
        index=index,
        chunks=tuple(chunks),
        members=members or members_at(nowhere, nowhere),
        rank=rank,
        target=TARGET,
        gateway=PEER,
        router="tcp://127.0.0.1:1",
        num_emitted=0,
        reserve=chunks[-1].history + chunks[-1].length + 8,
        sampling=Sampling(),
        ending=Ending(1),
        predicted=0.0,
    )
    return structs.replace(run, **changes)


def plan(*parts) -> list[Chunk]:
    """Chunks of these (length, size), one after the other."""
    chunks, passed = [], 0
    for length, size in parts:
        chunks.append(Chunk(passed, length, size))
        passed += length
    return chunks
