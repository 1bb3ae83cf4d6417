from common.recent import Recent


def test_the_oldest_member_is_forgotten_first() -> None:
    recent: Recent[int] = Recent(2)
    for member in (1, 2, 3):
        recent.add(member)
    assert [member in recent for member in (1, 2, 3)] == [False, True, True]
    assert len(recent) == 2


def test_adding_again_makes_a_member_the_newest() -> None:
    recent: Recent[int] = Recent(2)
    for member in (1, 2, 1, 3):
        recent.add(member)
    assert [member in recent for member in (1, 2, 3)] == [True, False, True]
