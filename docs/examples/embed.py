"""Embed a few texts. The same script runs under vLLM: ``from vllm import LLM``."""

import sys

from engine import LLM

MODEL = sys.argv[1] if len(sys.argv) > 1 else "all-minilm-l6-v2"

prompts = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]


def main() -> None:
    llm = LLM(model=MODEL, runner="pooling")
    outputs = llm.embed(prompts)
    for prompt, output in zip(prompts, outputs, strict=True):
        embedding = output.outputs.embedding
        beginning = ", ".join(f"{value:.4f}" for value in embedding[:4])
        print(f"Prompt: {prompt!r}, embedding: [{beginning}, ...] (size={len(embedding)})")


if __name__ == "__main__":
    main()
