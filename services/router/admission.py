"""Whether and how a prompt can be prefilled now: the planner under the limits of memory."""

from collections.abc import Mapping
from dataclasses import replace

from common.errors import RequestFailed
from common.latency import LatencyModel
from services.router.forced import forced_plan, parse
from services.router.memory import fits, member_slots, single_chunk_slots
from services.router.plan import Plan, Policy, PoolView
from services.router.planner import Planner


class Admission:
    """Plans that fit. Without memory pressure this is one call of the planner."""

    def __init__(self, model: LatencyModel) -> None:
        self.model = model

    def plan(
        self, length: int, view: PoolView, free: Mapping[str, int], policy: Policy
    ) -> Plan | None:
        """The plan with the least TTFT among those whose KV fits; None when none does now.

        A plan never needs more of a member than one chunk of its smallest size, page rounding
        apart. So for each smallest size the instances that hold that much take part.
        """
        best: Plan | None = None
        seen: frozenset[str] = frozenset()
        for index, size in enumerate(policy.sizes):
            need = single_chunk_slots(length, size)
            names = frozenset([name for name in view.names if free[name] >= need])
            if names == seen or size > len(names) or size not in self.model.curves:
                continue
            seen = names
            rest = replace(policy, sizes=policy.sizes[index:])
            found = self._fitting(length, view.only(names), rest, free)
            if found is not None and (best is None or found.ttft < best.ttft):
                best = found
            if len(names) == len(view.names):
                # Larger sizes need less of each: the same instances again.
                break
        return best

    def forced(
        self, text: str, length: int, view: PoolView, free: Mapping[str, int], policy: Policy
    ) -> Plan | None:
        """A demanded plan; None when its KV does not fit now.

        Raises:
            RequestFailed: the demand is wrong.
        """
        chunks = parse(text, length, self.model)
        size = chunks[-1].size
        need = max(member_slots(chunks, rank) for rank in range(size))
        names = frozenset(name for name in view.names if free[name] >= need)
        if len(names) < size:
            return None
        return forced_plan(text, length, view.only(names), policy, self.model)

    def check(
        self, length: int, totals: Mapping[str, int], forced: str | None, policy: Policy
    ) -> None:
        """Whether the pool could take the prompt if it were empty.

        Raises:
            RequestFailed: it could not, saying what to raise.
        """
        if forced is not None:
            parse(forced, length, self.model)
        if not totals:
            return
        names = tuple(totals)
        empty = PoolView(names, ("node",) * len(names), (0.0,) * len(names))
        if forced is not None:
            forced_plan(forced, length, empty, policy, self.model)
            possible = self.forced(forced, length, empty, totals, policy) is not None
        else:
            possible = self.plan(length, empty, totals, policy) is not None
        if not possible:
            raise RequestFailed(
                f"{length} tokens do not fit the KV memory of {len(totals)} prefill instances "
                f"with {max(totals.values())} tokens each at most; raise prefill.kv_tokens, add "
                "prefill workers or larger schedule.sp_size_candidates"
            )

    def _fitting(
        self, length: int, view: PoolView, policy: Policy, free: Mapping[str, int]
    ) -> Plan | None:
        plan = Planner(policy).plan(length, view, self.model)
        if fits(plan, free):
            return plan
        # Several chunks may round to more pages than one.
        plan = Planner(replace(policy, name="single-chunk")).plan(length, view, self.model)
        return plan if fits(plan, free) else None
