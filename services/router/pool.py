"""When each prefill instance will be free: the router's own books of all planned chunks.

Chunks are list-scheduled in the order of their `seq`: one starts when every member of its group
has finished what it was given before. Facts (who is ready, what is done) replace the estimate.
Pure; `now` is monotonic seconds.
"""

import math
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.pages import Owner
from services.router.plan import Plan, PoolView


@dataclass(slots=True, eq=False)
class Task:
    """One chunk on its way; `turns` numbers it for each member, `seq` for the mesh."""

    seq: int
    owner: Owner
    index: int
    turns: dict[str, int]
    predicted: float
    started: float | None = None
    pending: set[str] = field(default_factory=set)
    """Members that have not finished it."""
    absent: set[str] = field(default_factory=set)
    """Members that have not come to it."""


@dataclass(slots=True)
class _Instance:
    node: str
    tasks: deque[Task] = field(default_factory=deque)
    turn: int = 0


class Pool:
    """All prefill instances and the chunks that are planned on them."""

    def __init__(self) -> None:
        self._instances: dict[str, _Instance] = {}
        self._tasks: dict[int, Task] = {}
        self._seq = 0
        self._free: dict[str, float] = {}
        self._ends: dict[Owner, float] = {}
        self._valid_until = -math.inf

    @property
    def tasks(self) -> Iterable[Task]:
        """Chunks that somebody still has to finish, in order."""
        return self._tasks.values()

    def join(self, name: str, node: str) -> None:
        """A new life of an instance; its turns start at 1 again."""
        self.leave(name)
        # Interned: the planner tells the nodes of a thousand instances by their address.
        self._instances[name] = _Instance(sys.intern(node))
        self._touch()

    def leave(self, name: str) -> None:
        """An instance is gone; its part of every chunk counts as done."""
        instance = self._instances.pop(name, None)
        if instance is not None:
            for task in instance.tasks:
                self._leave_task(task, name)
            self._touch()

    def view(self, now: float) -> PoolView:
        """The instances with their queuing delays."""
        delays = self.delays(now)
        nodes = tuple(instance.node for instance in self._instances.values())
        return PoolView(tuple(delays), nodes, tuple(delays.values()))

    def delays(self, now: float) -> dict[str, float]:
        """Seconds until each instance has finished all planned work."""
        if now > self._valid_until:
            self._schedule(now)
        return {name: max(0.0, free - now) for name, free in self._free.items()}

    def ends(self, now: float) -> Mapping[Owner, float]:
        """When the last chunk of each attempt on its way will be done; monotonic seconds."""
        if now > self._valid_until:
            self._schedule(now)
        return self._ends

    def commit(self, owner: Owner, plan: Plan) -> list[Task]:
        """Book all chunks of a plan."""
        tasks = []
        for index, predicted in enumerate(plan.predicted):
            self._seq += 1
            group = plan.group(index)
            task = Task(self._seq, owner, index, {}, predicted, None, set(group), set(group))
            for name in group:
                instance = self._instances[name]
                instance.turn += 1
                instance.tasks.append(task)
                task.turns[name] = instance.turn
            self._tasks[task.seq] = task
            tasks.append(task)
        self._touch()
        return tasks

    def planned(self, name: str) -> int:
        """Chunks that an instance still has to finish."""
        return len(self._tasks_of(name))

    def is_turn(self, name: str, seq: int, turn: int) -> bool:
        """Whether a chunk is on its way and is that turn of the instance."""
        task = self._tasks.get(seq)
        return task is not None and task.turns.get(name) == turn

    def ready(self, name: str, seq: int, turn: int, now: float) -> Task | None:
        """A member has come to a turn; the chunk starts when the last one has: it is returned."""
        if self.is_turn(name, seq, turn):
            task = self._tasks[seq]
            task.absent.discard(name)
            if not task.absent and task.started is None:
                return self._start(task, now)
        return None

    def running(self, name: str, seq: int, now: float) -> Task | None:
        """A member computes a chunk, so its whole group has come, whatever was lost.

        Returns:
            The chunk, if that is news.
        """
        task = self._tasks.get(seq)
        if task is not None and name in task.turns and task.started is None:
            task.absent.clear()
            return self._start(task, now)
        return None

    def computing(self) -> dict[str, float]:
        """Since when each instance that computes a chunk has done so."""
        heads = {name: one.tasks[0] for name, one in self._instances.items() if one.tasks}
        return {name: task.started for name, task in heads.items() if task.started is not None}

    def finished(self, name: str, turn: int) -> None:
        """A member has finished all turns up to this one."""
        tasks = self._tasks_of(name)
        while tasks and tasks[0].turns[name] <= turn:
            self._leave_task(tasks.popleft(), name)
            self._touch()

    def forget(self, owner: Owner) -> list[tuple[str, int]]:
        """Take all chunks of an attempt out; (member, turn) of every part that was not finished."""
        void = []
        for task in [task for task in self._tasks.values() if task.owner == owner]:
            void += [(name, task.turns[name]) for name in task.turns if name in task.pending]
            for name in task.pending:
                self._instances[name].tasks.remove(task)
            del self._tasks[task.seq]
        self._touch()
        return void

    def _start(self, task: Task, now: float) -> Task:
        task.started = now
        self._touch()
        return task

    def _tasks_of(self, name: str) -> deque[Task]:
        instance = self._instances.get(name)
        return instance.tasks if instance is not None else deque()

    def _leave_task(self, task: Task, name: str) -> None:
        task.pending.discard(name)
        task.absent.discard(name)
        if not task.pending:
            del self._tasks[task.seq]

    def _touch(self) -> None:
        self._valid_until = -math.inf

    def _schedule(self, now: float) -> None:
        """List-schedule what is planned; valid until the first chunk is late or due to start."""
        free = dict.fromkeys(self._instances, now)
        valid_until, ends = math.inf, dict[Owner, float]()
        for task in self._tasks.values():
            if task.started is None:
                start = max(free[name] for name in task.pending)
                finish = start + task.predicted
                valid_until = min(valid_until, start)
            else:
                finish = task.started + task.predicted
                valid_until = min(valid_until, finish)
            for name in task.pending:
                free[name] = max(free[name], finish)
            ends[task.owner] = finish
        self._free, self._ends, self._valid_until = free, ends, valid_until
