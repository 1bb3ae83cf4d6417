from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.api.stops import Stops

LETTERS = st.text(alphabet="ab\u00e4", max_size=30)
TEXTS = st.lists(st.text(alphabet="ab\u00e4", min_size=1, max_size=5), max_size=4)


def reference(text: str, stops: list[str], are_shown: bool) -> tuple[str, bool]:
    """Character by character, with the whole text in sight."""
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return text[: end if are_shown else min(starts)], True
    return text, False


@given(text=LETTERS, stops=TEXTS, are_shown=st.booleans(), data=st.data())
def test_any_chunking_gives_the_text_up_to_the_first_complete_stop(
    text: str, stops: list[str], are_shown: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    bounds = [0, *cuts, len(text)]
    scanner, given_out = Stops(stops, are_shown=are_shown), ""
    expected, reached = reference(text, stops, are_shown)
    for start, end in pairwise(bounds):
        ready, stopped = scanner.push(text[start:end])
        given_out += ready
        assert expected.startswith(given_out)
        if stopped:
            break
    else:
        given_out += scanner.flush()
        stopped = False
    assert (given_out, stopped) == (expected, reached)


@given(text=LETTERS, stops=TEXTS)
def test_only_a_proper_prefix_of_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    scanner, given_out = Stops(stops), ""
    for end, letter in enumerate(text, 1):
        ready, stopped = scanner.push(letter)
        given_out += ready
        if stopped:
            return
        held = text[len(given_out) : end]
        assert not held or any(s.startswith(held) and s != held for s in stops)


def test_without_stops_nothing_is_held_back() -> None:
    assert Stops([]).push("anything") == ("anything", False)
