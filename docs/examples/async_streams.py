"""Read several outputs while they are written; a stream that nobody reads on ends its request."""

import asyncio
import sys

from engine import AsyncLLM, RequestOutputKind, SamplingParams

MODEL = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"

QUESTIONS = ["How many legs has a spider?", "Answer with one word: what is the capital of France?"]
sampling_params = SamplingParams(temperature=0, max_tokens=16, output_kind=RequestOutputKind.DELTA)


async def answer(llm: AsyncLLM, number: int, question: str) -> str:
    pieces = []
    prompt = {"messages": [{"role": "user", "content": question}]}
    async for output in llm.generate(prompt, sampling_params, request_id=f"question-{number}"):
        pieces += [completion.text for completion in output.outputs]
    return f"{question} -> {len(pieces)} pieces: {''.join(pieces)!r}"


async def main() -> None:
    llm = AsyncLLM(model=MODEL)
    for line in await asyncio.gather(*(answer(llm, i, question) for i, question in enumerate(QUESTIONS))):
        print(line)

    sentence = ""
    async for output in llm.generate("Once upon a time", sampling_params, request_id="story"):
        sentence += output.outputs[0].text
        if "," in sentence.strip(","):
            break
    print("The story begins: Once upon a time" + sentence)
    llm.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
