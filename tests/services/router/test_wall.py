from services.router.wall import Wall


def test_moments_follow_the_offset_and_never_lie_before_all_time() -> None:
    wall = Wall()
    assert wall.at(3.0) == 3.0
    wall.offset = 100.0
    assert wall.at(3.0) == 103.0
    assert wall.at(-200.0) == 0.0
