"""A decode worker without model and threads: KV is a header, a step is a sleep.

Worker, scheduler and slots are the real ones. Emulated workers reach each other only inside one
process, where their links are.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

from common import failpoints
from common.clock import Clock
from common.emulated_links import EmulatedLinks
from common.emulated_model import EmulatedModel
from common.errors import OutOfPages, WireError
from common.generation import Sampled
from common.messages import KvCommit, KvLayer, LinkMessage
from common.pace import Pace
from common.pages import PAGE
from common.service import Process
from services.decode_worker.control import control
from services.decode_worker.fence import Fence, ack
from services.decode_worker.intake import Intake
from services.decode_worker.request import Entry
from services.decode_worker.slots import Slots
from services.decode_worker.worker import Worker


class EmulatedEngine:
    """Draws the tokens of an emulated model in the time that it would take."""

    def __init__(self, model: EmulatedModel, clock: Clock) -> None:
        self._model = model
        self._pace = Pace(clock)

    async def step(self, batch: Sequence[Entry]) -> list[Sampled | None]:
        """One token for each entry, in order."""
        contexts = [entry.position + 1 for entry in batch]
        await self._pace.spend(self._model.step_seconds(contexts))
        return [
            self._model.sample(entry.sampling, entry.position + 1, entry.forbidden)
            for entry in batch
        ]


class EmulatedReceiver:
    """Takes KV without bytes off an emulated link; fence, slots and answers as in reality."""

    def __init__(self, endpoint: str, links: EmulatedLinks, slots: Slots, intake: Intake) -> None:
        self.dropped: Counter[str] = Counter()
        """Messages that were not acknowledged, by reason."""
        self.endpoint = endpoint
        self._links = links
        self._slots = slots
        self._intake = intake
        self._fence = Fence()

    def receive(self, message: LinkMessage) -> None:
        """Take one message in and acknowledge it."""
        try:
            match message:
                case KvLayer():
                    self._fence.check(message)
                    self._intake.open(message)
                    failpoints.hit("kv.receive")
                    self._slots.copied()
                    self._acknowledge(message, message.layer)
                case KvCommit():
                    self._fence.check_commit(message)
                    failpoints.hit("kv.commit")
                    self._intake.commit(message)
                    self._acknowledge(message, message.num_layers)
                case _:
                    self.dropped["type"] += 1
        except WireError as error:
            self.dropped[error.reason] += 1
        except OutOfPages:
            self.dropped["room"] += 1

    def _acknowledge(self, message: KvLayer | KvCommit, layer: int) -> None:
        self._links.send(self.endpoint, message.reply, ack(message, layer))


async def serve(process: Process, model: EmulatedModel, links: EmulatedLinks) -> None:
    """Join the mesh and pretend to decode until cancelled."""
    slots = Slots(-(-process.config.decode.kv_tokens // PAGE))
    worker = Worker(process, slots, ())
    intake = Intake(worker, slots, process.clock, asyncio.get_running_loop().call_soon)
    link = f"emulated://{process.peer.name}/{process.peer.incarnation}/kv"
    receiver = EmulatedReceiver(link, links, slots, intake)
    with links.bound(link, receiver.receive):
        engine = EmulatedEngine(model, process.clock)
        await control(process, worker, engine, model.layout, link)
