"""Messages of a hand-over, as a decode worker receives them."""

from common.messages import DecodeJob, Ending, KvCommit, KvLayer, Peer, Sampling, Token

GATEWAY = Peer("gateway-0", 1, "mem://gateway")
ROUTER = "mem://router"
NUM_LAYERS = 2


def job(request="a", attempt=1, first=5, index=0, gateway=GATEWAY, sampling=None, **ending):
    return DecodeJob(
        gateway=gateway,
        router=ROUTER,
        first=Token(request, attempt, index, first),
        sampling=sampling or Sampling(temperature=0),
        ending=Ending(**{"max_tokens": 8, **ending}),
    )


def layer(number, request="a", attempt=1, rank=0, prompt_length=20, reserve=28, intervals=()):
    return KvLayer(
        request=request,
        attempt=attempt,
        chunk=0,
        rank=rank,
        layer=number,
        backend=0,
        generation=1,
        intervals=intervals,
        prompt_length=prompt_length,
        reserve=reserve,
        reply="ipc:///nobody",
        incarnation=1,
    )


def commit(request="a", attempt=1, rank=0, num_transfers=1, prompt_length=20, job=None, **changes):
    return KvCommit(
        request=request,
        attempt=attempt,
        chunk=0,
        rank=rank,
        backend=0,
        generation=1,
        num_transfers=num_transfers,
        num_layers=changes.get("num_layers", NUM_LAYERS),
        num_tokens=0,
        prompt_length=prompt_length,
        reserve=prompt_length + 8,
        broker="mem://broker",
        reply="ipc:///nobody",
        incarnation=1,
        job=job,
        epoch=changes.get("epoch", 0),
    )
