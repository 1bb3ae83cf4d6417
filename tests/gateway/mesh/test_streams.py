import random

from common.messages import Ending, Finish, Sampling, Token
from gateway.api.stops import Stops
from gateway.mesh.streams import Stream, Usage


class Letters:
    """Ids are characters; an upper-case one is given out only with the next."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, token_id: int) -> str:
        text = self._held + chr(token_id)
        self._held = text if text.isupper() else ""
        return "" if self._held else text

    def flush(self) -> str:
        text, self._held = self._held, ""
        return text


def stream(
    *stops: str,
    max_tokens: int = 20,
    min_tokens: int = 0,
    stop_token_ids: tuple[int, ...] = (),
    are_shown: bool = False,
) -> Stream:
    ending = Ending(max_tokens, min_tokens, stop_token_ids=stop_token_ids)
    return Stream([7, 8, 9], Sampling(seed=3), ending, Stops(stops, are_shown=are_shown), Letters())


def token(index: int, letter: str, finish: Finish | None = None, attempt: int = 1) -> Token:
    return Token("r", attempt, index, ord(letter), finish=finish)


def text(of: Stream) -> str:
    return "".join(piece.text for piece in of.pieces())


def test_tokens_in_any_order_twice_over_give_each_position_once() -> None:
    rng = random.Random(1)
    letters = "the quick brown"
    for _ in range(50):
        one = stream()
        arriving = [token(i, c) for i, c in enumerate(letters)] * 2
        rng.shuffle(arriving)
        read = ""
        taken = 0
        for item in arriving:
            taken += one.take(item)
            read += text(one)
            assert letters.startswith(read)
        assert (read, taken) == (letters, len(letters))


def test_a_gap_is_held_until_it_is_filled() -> None:
    one = stream()
    assert one.take(token(0, "a"))
    assert one.take(token(2, "c"))
    assert text(one) == "a"
    assert one.take(token(1, "b"))
    assert text(one) == "bc"


def test_tokens_of_another_attempt_or_beyond_the_limit_are_dropped() -> None:
    one = stream(max_tokens=2)
    assert not one.take(token(0, "a", attempt=2))
    assert not one.take(token(2, "a"))
    assert text(one) == ""


def test_a_new_attempt_goes_on_where_the_last_one_ended() -> None:
    one = stream(max_tokens=10, min_tokens=4)
    one.take(token(0, "a"))
    one.take(token(2, "x"))
    one.restart()
    assert list(one.ids()) == [7, 8, 9, ord("a")]
    assert (one.ending().max_tokens, one.ending().min_tokens) == (9, 3)
    assert not one.take(token(1, "z", attempt=1))
    assert one.take(token(1, "b", attempt=2))
    assert text(one) == "ab"


def test_a_stop_string_ends_the_text_and_later_tokens_do_not_count() -> None:
    one = stream("stop")
    for index, letter in enumerate("ab stop more"):
        one.take(token(index, letter))
    assert text(one) == "ab "
    assert (one.finish, one.closed) == ("stop", False)
    assert one.usage == Usage(3, 7)


def test_text_held_back_for_a_stop_comes_with_the_last_token() -> None:
    one = stream("bcd")
    one.take(token(0, "a"))
    one.take(token(1, "b"))
    assert [piece.text for piece in one.pieces()] == ["a", ""]
    one.take(token(2, "c", "length"))
    (last,) = one.pieces()
    assert (last.text, last.finish, one.closed) == ("bc", "length", True)


def test_the_text_of_a_stop_token_is_not_part_of_the_answer() -> None:
    one = stream()
    one.take(token(0, "A"))
    one.take(token(1, "$", "stop"))
    assert [piece.text for piece in one.pieces()] == ["", "A"]
    assert (one.finish, one.usage.completion) == ("stop", 2)


def test_stop_strings_do_not_count_before_min_tokens() -> None:
    one = stream("a", min_tokens=3)
    for index, letter in enumerate("aaab"):
        one.take(token(index, letter))
    assert text(one) == "aa"
    assert (one.finish, one.usage.completion) == ("stop", 3)


def test_nothing_is_taken_after_the_last_token() -> None:
    one = stream()
    one.take(token(0, "a", "length"))
    assert not one.take(token(1, "b"))
    assert text(one) == "a"


def test_what_stops_the_text_is_part_of_it_where_that_was_asked_for() -> None:
    one = stream("stop", are_shown=True)
    for index, letter in enumerate("ab stop more"):
        one.take(token(index, letter))
    assert (text(one), one.finish, one.usage.completion) == ("ab stop", "stop", 7)
    two = stream(are_shown=True)
    two.take(token(0, "a"))
    two.take(token(1, "$", "stop"))
    assert text(two) == "a$"


def test_an_attempt_after_the_last_token_looks_at_the_prompt_alone() -> None:
    one = stream(min_tokens=2)
    one.take(token(0, "a"))
    one.take(token(1, "b", "length"))
    one.restart()
    assert (one.ids().tolist(), one.ending()) == ([7, 8, 9], Ending(1, ignore_eos=True))
    assert not one.take(token(0, "c", "length", attempt=2))
    assert (text(one), one.usage) == ("ab", Usage(3, 2))
