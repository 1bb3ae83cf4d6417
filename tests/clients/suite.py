"""Clients that people use, each by its own means, against the mesh that `make serve` starts.

python -m tests.clients.suite --python .venv-clients/bin/python [--url URL] [NAME ...]
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compose.model_cache import DEFAULT_MODEL, ModelCache, default_directory
from tests.processes.real_mesh import ROOT, running_mesh

NAMES = ("openai", "langchain", "litellm", "lm_eval")
MODEL = "SmolLM2-135M-Instruct"
PRESET = ROOT / "compose" / "presets" / "cpu.toml"
LIMIT = 1200.0
"""Seconds for one client."""


def main() -> int:
    """Run the clients; the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--python", required=True, help="with the clients installed")
    parser.add_argument("--url", help="of a running mesh; one is started if absent")
    options = parser.parse_args()
    path = ModelCache(default_directory(), print).resolve(DEFAULT_MODEL)
    with _mesh(options.url) as url:
        failed = [one for one in options.names if not _passes(one, options.python, url, path)]
    print(f"{len(options.names) - len(failed)} of {len(options.names)} clients passed", *failed)
    return len(failed)


@contextmanager
def _mesh(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    print("starting the mesh", flush=True)
    with running_mesh(preset=PRESET) as mesh:
        yield mesh.url


def _passes(name: str, python: str, url: str, path: Path) -> bool:
    begun = time.perf_counter()
    environment = {
        **os.environ,
        "TETRIS_URL": url,
        "TETRIS_MODEL": MODEL,
        "TETRIS_MODEL_PATH": str(path),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONWARNINGS": "ignore",
    }
    command = [python, str(Path(__file__).parent / f"check_{name}.py")]
    try:
        status = subprocess.run(command, env=environment, timeout=LIMIT, check=False).returncode
    except subprocess.TimeoutExpired:
        status = -1
    verdict = "passed" if status == 0 else "FAILED"
    print(f"{name}: {verdict} in {time.perf_counter() - begun:.0f} s", flush=True)
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
