"""Answer a conversation. The same script runs under vLLM: ``from vllm import LLM, SamplingParams``."""

import sys

from engine import LLM, SamplingParams

MODEL = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"

conversation = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I assist you today?"},
    {"role": "user", "content": "Write one sentence about the importance of higher education."},
]


def main() -> None:
    llm = LLM(model=MODEL)
    # What the model's makers recommend, with room for an answer.
    sampling_params = llm.get_default_sampling_params()
    sampling_params.max_tokens = 40
    sampling_params.temperature = 0.5
    sampling_params.seed = 1
    outputs = llm.chat(conversation, sampling_params, use_tqdm=False)
    for output in outputs:
        print(f"Generated text: {output.outputs[0].text!r}")

    # A template of one's own, in place of the model's.
    template = """{% for message in messages %}### {{ message['role'] }}
{{ message['content'] }}

{% endfor %}### assistant
"""
    outputs = llm.chat(conversation, SamplingParams(temperature=0, max_tokens=20), chat_template=template)
    print(f"With another template: {outputs[0].outputs[0].text!r}")


if __name__ == "__main__":
    main()
