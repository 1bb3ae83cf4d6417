import asyncio

import pytest

from common.errors import ConfigError
from common.memory_transport import Faults
from common.messages import (
    LOST_MEMBER,
    UNKNOWN_MEMBER,
    Cancel,
    ClusterState,
    ControlMessage,
    GatewayFacts,
    Goodbye,
    Heartbeat,
    Hello,
    Leave,
    Peer,
    Refused,
    Welcome,
)
from tests.common.membership import books, member, serving, welcoming
from tests.simulation.virtual_loop import run


def test_hello_is_repeated_until_welcome_and_facts_follow():
    async def main() -> None:
        async with member(lambda _: None) as (router, membership):
            await asyncio.sleep(2.25)
            assert router.kinds() == ["Hello"] * 5
            assert membership.welcome is None
            router.answer = welcoming()
            await asyncio.sleep(2.0)
            assert membership.welcome == Welcome(1, 11)
            assert router.kinds()[5:] == ["Hello"] + ["Heartbeat"] * 4
            times = [when for when, kind in router.seen if kind == "Heartbeat"]
            assert times == pytest.approx([times[0] + 0.5 * beat for beat in range(4)], abs=0.005)

    run(main())


def test_heartbeats_carry_the_facts_of_the_moment():
    beats = []

    def answer(message: ControlMessage) -> ControlMessage | None:
        if isinstance(message, Heartbeat):
            beats.append(message)
        return welcoming()(message)

    async def main() -> None:
        async with member(answer):
            await asyncio.sleep(0.25)
        assert beats == [Heartbeat("gateway", "gateway-1", 11, GatewayFacts(3), "member")]

    run(main())


def test_a_refused_member_does_not_start_and_says_why():
    async def main() -> None:
        async with member(lambda _: Refused(11, "another model")):
            await asyncio.sleep(10.0)

    with pytest.raises(ExceptionGroup) as caught:
        run(main())
    assert caught.group_contains(ConfigError, match="refused by the router: another model")


def test_answers_to_another_life_of_this_member_mean_nothing():
    answers = iter([Refused(10, "old"), Welcome(1, 10), Refused(11, UNKNOWN_MEMBER)])

    async def main() -> None:
        async with member(lambda _: next(answers, None)) as (router, membership):
            await asyncio.sleep(2.25)
            assert membership.welcome is None
            assert router.kinds() == ["Hello"] * 5

    run(main())


@pytest.mark.parametrize("lost", [Refused(11, UNKNOWN_MEMBER), ClusterState(2, 0, 0, 0, 0)])
def test_a_router_that_lost_its_books_is_greeted_again_at_once(lost: ControlMessage):
    def answer(message: ControlMessage) -> ControlMessage:
        return Welcome(2, 11) if isinstance(message, Hello) else lost

    async def main() -> None:
        async with member(welcoming(1)) as (router, membership):
            await asyncio.sleep(1.75)
            router.seen.clear()
            router.answer = answer
            await asyncio.sleep(0.3)
            router.answer = welcoming(2)
            await asyncio.sleep(2.0)
            assert membership.welcome == Welcome(2, 11)
            first_beat, hello = router.seen[:2]
            assert (first_beat[1], hello[1]) == ("Heartbeat", "Hello")
            assert hello[0] - first_beat[0] < 0.01
            assert router.kinds().count("Hello") >= 1
            assert router.kinds()[-3:] == ["Heartbeat"] * 3

    run(main())


def test_a_lossy_network_only_delays_joining():
    async def main() -> None:
        async with member(welcoming(), Faults(loss=0.5, duplication=0.5)) as (_, membership):
            await asyncio.sleep(20.0)
            assert membership.welcome == Welcome(1, 11)

    run(main())


def test_messages_of_others_are_left_to_the_service():
    async def main() -> None:
        async with member(welcoming()) as (_, membership):
            assert not membership.receive(Cancel("r", 1))
            assert not membership.receive(ClusterState(1, 0, 0, 0, 0))
            assert membership.receive(Welcome(1, 10))
            assert membership.receive(Refused(10, "old"))

    run(main())


def test_every_answer_renews_the_lease():
    async def main() -> None:
        async with serving(books) as (router, membership, _):
            await asyncio.sleep(5.0)
            assert membership.silence < 0.6
            router.answer = lambda _: None
            await asyncio.sleep(5.0)
            assert membership.silence == pytest.approx(5.4, abs=0.2)
            assert membership.welcome is not None

    run(main())


def test_a_life_that_counts_as_lost_lets_go_once_and_joins_as_a_new_one():
    def answer(message: ControlMessage) -> ControlMessage | None:
        if isinstance(message, Heartbeat) and message.incarnation == 11:
            return Refused(11, LOST_MEMBER)
        return books(message)

    async def main() -> None:
        # Refusals to the old life come twice: the second one means nothing.
        async with serving(answer, Faults(duplication=1.0)) as (router, membership, gateway):
            await asyncio.sleep(3.0)
            assert gateway.fenced == [11]
            assert gateway.process.peer.incarnation == 12
            assert membership.welcome == Welcome(1, 12)
            hellos = [m.peer.incarnation for m in router.messages if isinstance(m, Hello)]
            assert sorted(set(hellos)) == [11, 12]
            beats = [m for m in router.messages if isinstance(m, Heartbeat)]
            assert beats[-1].facts == GatewayFacts(0)
            assert beats[-1].incarnation == 12

    run(main())


def test_a_real_refusal_after_a_restart_of_the_router_is_told_too():
    def answer(message: ControlMessage) -> ControlMessage:
        reason = "another model" if isinstance(message, Hello) else UNKNOWN_MEMBER
        return Refused(11, reason)

    async def main() -> None:
        async with serving(books) as (router, _, _):
            await asyncio.sleep(1.0)
            router.answer = answer
            await asyncio.sleep(10.0)

    with pytest.raises(ExceptionGroup) as caught:
        run(main())
    assert caught.group_contains(ConfigError, match="refused by the router: another model")


def test_who_is_told_to_stop_asks_to_leave_until_goodbye():
    async def main() -> None:
        async with serving(books) as (router, _, gateway):
            await asyncio.sleep(1.0)
            gateway.process.stopping.set()
            await asyncio.sleep(2.25)
            leaves = [m for m in router.messages if isinstance(m, Leave)]
            assert leaves == [Leave("gateway-1", 11)] * 5
            assert router.kinds()[-6:].count("Heartbeat") >= 2
            assert not gateway.process.drained.is_set()
            router.answer = lambda m: Goodbye(11) if isinstance(m, Leave) else books(m)
            await asyncio.sleep(0.5)
            assert gateway.process.drained.is_set()
            assert not gateway.process.is_ordered

    run(main())


def test_an_order_to_leave_comes_with_a_welcome():
    def answer(message: ControlMessage) -> ControlMessage | None:
        return Welcome(1, 11, leave=True) if isinstance(message, Heartbeat) else books(message)

    async def main() -> None:
        async with serving(books) as (router, _, gateway):
            await asyncio.sleep(1.0)
            router.answer = answer
            await asyncio.sleep(1.0)
            assert gateway.process.stopping.is_set()
            assert gateway.process.is_ordered
            assert "Leave" in router.kinds()

    run(main())


def test_an_order_does_not_turn_a_stop_by_signal_into_one_for_good():
    async def main() -> None:
        async with serving(lambda m: Welcome(1, 11, leave=True)) as (_, _, gateway):
            gateway.process.stopping.set()
            await asyncio.sleep(1.0)
            assert not gateway.process.is_ordered

    run(main())


def test_goodbye_means_nothing_to_who_did_not_ask_or_to_another_life():
    async def main() -> None:
        async with serving(books) as (_, membership, gateway):
            await asyncio.sleep(1.0)
            assert membership.receive(Goodbye(11))
            gateway.process.stopping.set()
            assert membership.receive(Goodbye(10))
            assert not gateway.process.drained.is_set()
            assert membership.receive(Goodbye(11))
            assert gateway.process.drained.is_set()

    run(main())


def test_who_leaves_says_so_to_a_new_router_right_behind_its_hello():
    async def main() -> None:
        async with serving(books) as (router, _, gateway):
            await asyncio.sleep(1.0)
            gateway.process.stopping.set()
            await asyncio.sleep(0.1)
            router.seen.clear()
            router.answer = lambda m: Refused(11, UNKNOWN_MEMBER) if type(m) is Heartbeat else None
            await asyncio.sleep(1.0)
            first = router.kinds().index("Hello")
            assert router.kinds()[first + 1] == "Leave"

    run(main())


def test_who_is_alone_goes_as_soon_as_nobody_would_miss_it():
    async def main() -> None:
        async with serving(books) as (router, membership, gateway):
            await asyncio.sleep(1.0)
            gateway.process.stopping.set()
            router.answer = lambda _: None
            await asyncio.sleep(10.0)
            assert membership.silence > 3.0
            assert not gateway.process.drained.is_set()
            gateway.streams = 0
            await asyncio.sleep(0.6)
            assert gateway.process.drained.is_set()

    run(main())


def test_who_is_idle_waits_for_a_router_that_may_still_answer():
    async def main() -> None:
        async with serving(books) as (router, _, gateway):
            await asyncio.sleep(1.0)
            gateway.streams = 0
            gateway.process.stopping.set()
            router.answer = lambda _: None
            await asyncio.sleep(2.0)
            assert not gateway.process.drained.is_set()
            await asyncio.sleep(2.0)
            assert gateway.process.drained.is_set()

    run(main())


def test_hello_of_a_new_life_carries_the_new_peer():
    async def main() -> None:
        async with serving(lambda _: None) as (router, _, gateway):
            gateway.process.renew()
            await asyncio.sleep(0.1)
            assert router.messages[0].peer == Peer("gateway-1", 12, "member")

    run(main())
