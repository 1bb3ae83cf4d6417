import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "gateway", "services", "compose", "loadgen")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy: a stale build folder, or a search compiled in place, must not decide."""
    copy = tmp_path_factory.mktemp("tree")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return copy


def build(tree: Path, dist: Path, **environment: str) -> zipfile.ZipFile:
    """The wheel of a tree."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(dist),
        str(tree),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    (built,) = dist.glob("tetris_serve-*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with build(tree, tmp_path_factory.mktemp("dist")) as archive:
        yield archive


def compiled(wheel: zipfile.ZipFile) -> list[str]:
    return [name for name in wheel.namelist() if name.endswith((".so", ".pyd"))]


def test_every_source_file_is_in_it_and_no_test(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    sources = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in ROOT.glob(f"{package}/**/*.py")
    }
    assert sources <= names
    assert not any(name.startswith("tests/") for name in names)


def test_presets_latency_models_and_the_dockerfile_are_in_it(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    data = {
        str(path.relative_to(ROOT))
        for pattern in ("presets/*.toml", "latency/*.toml", "latency/*.csv", "Dockerfile")
        for path in (ROOT / "compose").glob(pattern)
    }
    assert {"compose/presets/cpu.toml", "compose/Dockerfile"} <= data
    assert data | {"gateway/window/board.html"} <= names


def test_it_installs_the_command_and_its_licence(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    entry_points = ConfigParser()
    entry_points.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(entry_points["console_scripts"]) == {"tetris": "compose.cli:main"}
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_the_compiled_search_is_in_it(wheel: zipfile.ZipFile) -> None:
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if (
        shutil.which(compiler) is None
        or not Path(sysconfig.get_path("include"), "Python.h").exists()
    ):
        pytest.skip("no C compiler, or no Python.h")
    assert [name.split(".")[0] for name in compiled(wheel)] == ["services/router/_search"]


def test_a_wheel_is_built_without_a_compiler_too(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    (tmp_path / "dist").mkdir()
    with build(copy, tmp_path / "dist", CC="/bin/false") as archive:
        assert compiled(archive) == []
        assert "services/router/search.py" in archive.namelist()


def test_the_source_distribution_has_all_that_the_compiled_search_is_built_from(
    tree: Path, tmp_path: Path
) -> None:
    command = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", command, str(tmp_path)],
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("services/**/*.[ch]")}
    assert "services/router/_search.c" in sources
    assert sources <= names
