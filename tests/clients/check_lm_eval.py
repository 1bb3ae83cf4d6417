"""lm-eval's local-completions: its own command, and its log-likelihoods beside transformers'."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
MODEL, PATH = os.environ["TETRIS_MODEL"], os.environ["TETRIS_MODEL_PATH"]
URL = os.environ["TETRIS_URL"] + "/v1/completions"
TOLERANCE = 1e-3
"""Natural log units, in float32."""


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder))
        samples = _samples(Path(folder), "tetris_capitals")
        rolling = _samples(Path(folder), "tetris_prose")
        generated = _samples(Path(folder), "tetris_continue")
    reference = Reference()
    worst = max(reference.error(sample) for sample in samples)
    print(f"lm-eval: {len(samples)} questions, worst difference {worst:.1e}", flush=True)
    assert worst <= TOLERANCE
    worst_rolling = max(reference.rolling_error(sample) for sample in rolling)
    print(f"lm-eval: {len(rolling)} texts, worst difference {worst_rolling:.1e}", flush=True)
    assert worst_rolling <= TOLERANCE
    assert all(sample["filtered_resps"][0].strip() for sample in generated)
    print(f"lm-eval: {len(generated)} generated ok", flush=True)


def _run(folder: Path) -> None:
    model_args = f"model={MODEL},base_url={URL},tokenizer_backend=huggingface,tokenizer={PATH}"
    tasks = "tetris_capitals,tetris_prose,tetris_continue"
    command = ["-m", "lm_eval", "run", "--model", "local-completions", "--model_args"]
    command += [f"{model_args},num_concurrent=2,max_length=4096", "--tasks", tasks]
    command += ["--include_path", str(HERE / "tasks"), "--batch_size", "4"]
    command += ["--log_samples", "--output_path", str(folder)]
    subprocess.run([sys.executable, *command], check=True, cwd=HERE / "tasks")


def _samples(folder: Path, task: str) -> list[dict]:
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


class Reference:
    """The same model in transformers, float32."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(PATH)
        self.model = AutoModelForCausalLM.from_pretrained(PATH, dtype=torch.float32).eval()

    def error(self, sample: dict) -> float:
        """The largest difference of one question's answers, log-likelihood of each."""
        errors = []
        for arguments, answer in zip(sample["arguments"].values(), sample["resps"], strict=True):
            context, continuation = arguments["arg_0"], arguments["arg_1"]
            whole = self.tokenizer(context + continuation, add_special_tokens=False).input_ids
            start = len(self.tokenizer(context, add_special_tokens=False).input_ids)
            expected = self._scores(whole)[start - 1 :].sum().item()
            told, is_greedy = answer[0]
            assert str(is_greedy) in ("True", "False")
            errors.append(abs(float(told) - expected))
        return max(errors)

    def rolling_error(self, sample: dict) -> float:
        """The difference of one text's log-likelihood, whole from its first token on."""
        text = sample["arguments"]["gen_args_0"]["arg_0"]
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        # lm-eval scores the first token behind the one that begins texts.
        expected = self._scores([self.tokenizer.bos_token_id, *ids]).sum().item()
        told = sample["resps"][0]
        return abs(float(told[0] if isinstance(told, list) else told) - expected)

    @torch.inference_mode()
    def _scores(self, ids: list[int]) -> torch.Tensor:
        logits = self.model(torch.tensor([ids])).logits[0, :-1].double()
        return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


if __name__ == "__main__":
    main()
