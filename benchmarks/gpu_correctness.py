"""Compares the engine on a GPU with transformers on the same GPU and the same weights; float32 is the judge.

    python benchmarks/gpu_correctness.py --out correctness.json [--smollm2 FILE.gguf] [--parts tokens,logits]

``tokens``: SmolLM2's real weights, 64 prompts, 64 greedy tokens each. Where an output leaves the reference's, the gap
between the two logits in float32 says whether it was a tie within bf16's rounding; transformers' own bf16 is judged by
the same rule. ``logits``: random weights at a trained model's scale in the shape of an 8B model at full depth; distance
of log-probabilities to float32, for the engine and for transformers' bf16. The exit code is not zero where the engine
parts beyond a tie more often than transformers' bf16 does, or is further from float32 by more than half.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.correctness import distances, engine_scores, engine_tokens, judge, random_prompts
from benchmarks.gpu_workloads import write_model
from benchmarks.reference import file_tensors, random_tensors
from engine import LLM

ROOT = Path(__file__).resolve().parents[1]
FURTHER = 1.5  # times transformers' bf16 distance that the engine's may have
FLOAT32_TIE = 1e-3  # gap of logits that may be a tie between two computations in float32


def main() -> None:
    """Run the parts, print and write what they found."""
    options = _options()
    device = torch.device(options.device)
    found: dict[str, Any] = {}
    wrong: list[str] = []
    for part in options.parts.split(","):
        start = time.perf_counter()
        run = {"tokens": compare_tokens, "logits": compare_logits}[part]
        found[part], complaints = run(options, device)
        wrong += complaints
        print(f"{part}: {time.perf_counter() - start:.0f} s\n{json.dumps(found[part], indent=1)}", flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(wrong or ["all is as it must be"]))
    sys.exit(1 if wrong else 0)


def compare_tokens(options: argparse.Namespace, device: torch.device) -> tuple[dict[str, Any], list[str]]:
    """SmolLM2's greedy tokens by the engine (bf16, and float32 where its kernels take that) and by transformers."""
    tokens: dict[str, Any] = {}
    failed: dict[str, str] = {}
    prompts: list[list[int]] = []
    for dtype in ("bfloat16", "float32"):
        try:
            with LLM(options.smollm2, dtype=dtype, max_model_len=1024, device=options.device) as llm:
                prompts = prompts or _articles(llm, options.prompts)
                tokens[dtype] = engine_tokens(llm, prompts, options.count)
        except Exception as error:  # a dtype that the kernels do not take is a result, not the end
            if dtype == "bfloat16":
                raise
            failed[f"engine {dtype}"] = f"{type(error).__name__}: {error}"
    config, take = file_tensors(options.smollm2)
    reference = judge(config, take, prompts, options.count, device)
    verdicts = {f"engine {dtype}": reference.verdict(ids, {"float32": FLOAT32_TIE}.get(dtype))
                for dtype, ids in tokens.items()}  # fmt: skip
    theirs = verdicts["transformers bfloat16"] = reference.verdict(reference.bf16_tokens)
    wrong = [
        f"{name}: {verdict.beyond} outputs part from float32 beyond a tie"
        for name, verdict in verdicts.items()
        if verdict.beyond > (theirs.beyond if name == "engine bfloat16" else 0) and name.startswith("engine")
    ]
    return {name: verdict.record() for name, verdict in verdicts.items()} | failed, wrong


def compare_logits(options: argparse.Namespace, device: torch.device) -> tuple[dict[str, Any], list[str]]:
    """Log-probabilities in the shape of an 8B model."""
    changes = options.changes | ({"num_hidden_layers": options.layers} if options.layers else {})
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(options.model, Path(folder), **changes)
        config = json.loads((model / "config.json").read_text())
        arguments = {"dtype": "bfloat16", "max_model_len": 1024, "device": options.device}
        with LLM(str(model), load_format="dummy", skip_tokenizer_init=True, **arguments) as llm:
            prompts = random_prompts(options.logit_prompts, 400, min(32000, config["vocab_size"]))
            scored = engine_scores(llm, prompts, options.count)
    found = distances(config, random_tensors(device), scored, device)
    wrong = [
        f"{part}: the engine's mean distance to float32 is over {FURTHER} times that of transformers' bf16"
        for part, values in found.items()
        if not values["engine_mean"] <= FURTHER * values["transformers_bf16_mean"]
    ]
    return {"model": options.model, "layers": config["num_hidden_layers"], **found}, wrong


def _articles(llm: LLM, count: int) -> list[list[int]]:
    """Beginnings of the shipped articles: 8 to 400 tokens."""
    lines = (ROOT / "recipes/data/articles.jsonl").read_text().splitlines()
    tokenizer = llm.get_tokenizer()
    lengths = [round(8 * 50 ** (i / max(1, count - 1))) for i in range(count)]
    texts = [json.loads(line)["article"] for line in lines[:count]]
    return [tokenizer(text)["input_ids"][:length] for text, length in zip(texts, lengths, strict=True)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/correctness.json"))
    parser.add_argument("--parts", default="tokens,logits")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--smollm2", default="smollm2-135m-instruct", help="short name, or the .gguf file")
    parser.add_argument("--prompts", type=int, default=64, help="of tokens, at most 64")
    parser.add_argument("--count", type=int, default=64, help="output tokens")
    parser.add_argument("--model", default="llama8b", help="shape for logits")
    parser.add_argument("--layers", type=int, help="fewer layers for logits")
    parser.add_argument("--logit-prompts", type=int, default=8)
    parser.add_argument("--changes", type=json.loads, default={}, help="entries of the model's config, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
