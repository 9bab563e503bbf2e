"""Give outputs a form. The same script runs under vLLM with its own imports of these four names."""

import sys
from enum import StrEnum

from pydantic import BaseModel

from engine import LLM, SamplingParams, StructuredOutputsParams

MODEL = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
GRAMMAR = """
root ::= select_statement
select_statement ::= "SELECT " column " from " table " where " condition
column ::= "col_1 " | "col_2 "
table ::= "table_1 " | "table_2 "
condition ::= column "= " number
number ::= "1 " | "2 "
"""


class CarType(StrEnum):
    SEDAN = "sedan"
    SUV = "SUV"
    TRUCK = "truck"
    COUPE = "coupe"


class CarDescription(BaseModel):
    model_config = {"extra": "forbid"}
    brand: str
    model: str
    car_type: CarType


FORMS = {
    "choice": (
        "Classify this sentiment: I love sunny days!",
        SamplingParams(temperature=0, structured_outputs=StructuredOutputsParams(choice=["Positive", "Negative"])),
    ),
    "regex": (
        "Write an e-mail address for Alan Turing, who works at Enigma. End it with .com and a new line. ",
        SamplingParams(
            temperature=0,
            max_tokens=50,
            stop=["\n"],
            structured_outputs=StructuredOutputsParams(regex=r"[a-z.]{1,20}@\w{1,10}\.com\n"),
        ),
    ),
    "json": (
        "Describe the most famous car of the 90s with brand, model and car_type, in JSON: ",
        SamplingParams(
            temperature=0,
            max_tokens=80,
            structured_outputs=StructuredOutputsParams(json=CarDescription.model_json_schema()),
        ),
    ),
    "grammar": (
        "Write an SQL query that shows col_1 and col_2 of table_1: ",
        SamplingParams(temperature=0, max_tokens=50, structured_outputs=StructuredOutputsParams(grammar=GRAMMAR)),
    ),
}


def main() -> None:
    llm = LLM(model=MODEL)
    for name, (prompt, sampling_params) in FORMS.items():
        (output,) = llm.generate(prompt, sampling_params, use_tqdm=False)
        print(f"{name}: {output.outputs[0].text}")


if __name__ == "__main__":
    main()
