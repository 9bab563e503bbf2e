"""Answer many conversations in one batch. The same script runs under vLLM: ``from vllm import LLM, SamplingParams``."""

import sys

from engine import LLM, SamplingParams

MODEL = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"

questions = [
    "What is the capital of Italy?",
    "Name three colours.",
    "How many legs has a spider?",
    "Translate 'good morning' into French.",
]


def main() -> None:
    llm = LLM(model=MODEL)
    conversations = [
        [
            {"role": "system", "content": "You are a concise assistant."},
            {"role": "user", "content": question},
        ]
        for question in questions
    ]
    # One set of parameters for each conversation, in the same order.
    sampling_params = [SamplingParams(temperature=0, max_tokens=10 + 5 * i) for i in range(len(questions))]
    outputs = llm.chat(conversations, sampling_params, use_tqdm=True)
    for question, output in zip(questions, outputs, strict=True):
        answer = output.outputs[0]
        print(f"{question!r} -> {answer.text!r} ({len(answer.token_ids)} tokens, {answer.finish_reason})")


if __name__ == "__main__":
    main()
