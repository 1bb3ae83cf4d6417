import platform
from pathlib import Path

from services.prefill_worker.device import LONGEST, processor

CPUINFO = """processor\t: 0
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC 7B13
stepping\t: 0
cpu MHz\t\t: {}

processor\t: 1
model name\t: another
"""


def test_a_processor_is_named_by_what_does_not_change(tmp_path: Path) -> None:
    names = []
    for megahertz in ("2450.0", "3100.5"):
        file = tmp_path / "cpuinfo"
        file.write_text(CPUINFO.format(megahertz))
        names.append(processor(file))
    assert names == [f"{platform.machine()} AMD EPYC 7B13 25 1 0"] * 2


def test_without_the_kernel_s_word_the_architecture_is_left(tmp_path: Path) -> None:
    assert processor(tmp_path / "none") == platform.machine()


def test_a_name_fits_its_message(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name : {'x' * 1000}\n")
    assert len(processor(tmp_path / "cpuinfo")) == LONGEST
    assert processor()
