"""`make test-api`: requests made out of /openapi.json against a gateway over a fake mesh.

The status is that of the tool: not 0 when an answer is a server error or not as described.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from common import keys
from common.messages import Accepted, Submit
from gateway.api.tokenizer import Tokenizer
from tests.gateway.bench import Bench, Client, FakeMesh, scores
from tests.gateway.conftest import make_model

SETTINGS = Path(__file__).with_name("fuzz.toml")
HOUR = 3600.0
TOOL = Path(sys.executable).with_name("schemathesis")


def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
    """The scores that are wanted, and a few tokens, as many as are wanted at most."""
    mesh.send(Accepted(submit.request, submit.attempt))
    wanted = min(submit.ending.max_tokens, 3)
    for known in scores(submit, ids) if submit.prompt_logprobs >= 0 else ():
        mesh.send(known)
    mesh.tokens(submit, "abc"[:wanted], "length")


def main(options: list[str]) -> int:
    if not TOOL.exists():
        sys.stderr.write("schemathesis is not installed: make test-api\n")
        return 2
    status = 1

    async def scenario(client: Client) -> None:
        nonlocal status
        command = [TOOL, "--config-file", SETTINGS, "run", f"{client.url}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {key}", *options]
        # It leaves a folder of its own where it runs.
        running = await asyncio.create_subprocess_exec(*map(str, command), cwd=file.parent)
        status = await running.wait()

    with tempfile.TemporaryDirectory() as directory:
        path = make_model(Path(directory) / "tiny", max_model_len=1 << 20)
        key, file = keys.fresh(), Path(directory) / "keys"
        file.write_text(keys.line("fuzz", key))
        tokenizer = Tokenizer(str(path))
        bench = Bench(path, tokenizer)
        bench.patience = HOUR
        bench(reply, scenario, keys=str(file))
        tokenizer.close()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
