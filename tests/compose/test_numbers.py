import pytest

from compose.numbers import numbers


def test_lists_and_ranges_mix():
    assert list(numbers("2")) == [2.0]
    assert list(numbers("1,2.5,4")) == [1.0, 2.5, 4.0]
    assert list(numbers("0.5:2:0.5,7")) == [0.5, 1.0, 1.5, 2.0, 7.0]
    assert list(numbers("0.1:0.3:0.1")) == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("wrong", ["", "a", "1:2", "1:2:3:4", "1:2:0", "1:2:-1", "0:1e9:1e-9",
                                   "inf", "nan", "1:-inf:1", "inf:1:1", "3:1:1",
                                   "0:9999:1,1"])  # fmt: skip
def test_everything_else_is_refused(wrong):
    with pytest.raises(ValueError):
        list(numbers(wrong))
