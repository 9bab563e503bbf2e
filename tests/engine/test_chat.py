"""Chats on SmolLM2: templates from everywhere, options, tools, answers taken apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import LLM, SamplingParams
from engine.text.inputs import InputError
from tests.engine.ask import SMOLLM, greedy

USER = {"role": "user", "content": "Say hello."}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
WITH_TOOLS = (
    "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}({{ c.function.name }} {{ c.function.arguments.city }}){% endfor %}"
    "{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def prompt_of(llm: LLM, messages: Any, **options: Any) -> str:
    (output,) = llm.chat(messages, greedy(max_tokens=1), use_tqdm=False, **options)
    assert output.error is None, output.error
    text: str = llm.get_tokenizer().decode(output.prompt_token_ids)
    assert output.prompt == text
    return text


def error_of(llm: LLM, messages: Any, **options: Any) -> str:
    _, output = llm.chat([[USER], messages], greedy(max_tokens=1), use_tqdm=False, **options)
    assert output.error is not None
    assert not output.outputs
    with pytest.raises(InputError):
        llm.chat(messages, greedy(max_tokens=1), use_tqdm=False, on_error="raise", **options)
    return output.error


def test_template_from_a_string_a_file_and_the_engine(smol: LLM, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("F {{ messages[0].content }}")
    assert prompt_of(smol, [USER], chat_template="S {{ messages[0].content }}") == "S Say hello."
    assert prompt_of(smol, [USER], chat_template=str(file)) == "F Say hello."
    assert prompt_of(smol, [USER], chat_template=file) == "F Say hello."
    with LLM(SMOLLM, load_format="dummy", chat_template=str(file), max_model_len=64) as llm:
        assert prompt_of(llm, [USER]) == "F Say hello."
        assert prompt_of(llm, [USER], chat_template="S {{ messages[0].content }}") == "S Say hello."
    with pytest.raises(ValueError, match=r"chat_template='no.jinja' is no file"):
        LLM(SMOLLM, load_format="dummy", chat_template="no.jinja")


def test_model_without_a_template_is_told_the_fix(smol: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smol.get_tokenizer(), "chat_template", None)
    assert "no chat template: pass chat_template" in error_of(smol, [USER])
    assert prompt_of(smol, [USER], chat_template="{{ messages[0].content }}") == "Say hello."


def test_tools_calls_and_results_reach_the_template(smol: LLM) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "9"},
    ]
    assert prompt_of(smol, messages, tools=TOOLS, chat_template=WITH_TOOLS) == (
        "[weather]user:Say hello.\nassistant:(weather Bonn)\ntool:9\nassistant:"
    )
    assert "does not read tools" in error_of(smol, [USER], tools=TOOLS)
    assert "message 1 has tool_calls" in error_of(smol, messages)


def test_content_parts_and_formats(smol: LLM) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert "<|im_start|>user\na\nb<|im_end|>" in prompt_of(smol, [parts])
    loop = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    assert prompt_of(smol, [parts], chat_template=loop) == "<a><b>"
    assert prompt_of(smol, [USER], chat_template=loop) == "<Say hello.>"
    as_is = "{{ messages[0].content }}"
    assert "'type': 'text'" in prompt_of(smol, [USER], chat_template=as_is, chat_template_content_format="openai")
    assert "content[0] is of type 'image_url'" in error_of(
        smol, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    )
    assert "chat_template_content_format='text'" in error_of(smol, [USER], chat_template_content_format="text")


def test_continued_message(smol: LLM) -> None:
    opened = [USER, {"role": "assistant", "content": "Hello, my name is"}]
    (output,) = smol.chat(
        opened, greedy(max_tokens=4), use_tqdm=False, add_generation_prompt=False, continue_final_message=True
    )
    assert output.prompt is not None
    assert output.prompt.endswith("assistant\nHello, my name is")
    (whole,) = smol.generate(output.prompt, greedy(max_tokens=4), use_tqdm=False)
    assert output.outputs[0].token_ids == whole.outputs[0].token_ids
    assert "exclude each other" in error_of(smol, opened, continue_final_message=True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"chat_template_kwargs": {"enable_thinkin": True}}, "does not read 'enable_thinkin'"),
        ({"chat_template_kwargs": {"tools": []}}, "'tools', which is an option of its own"),
        ({"chat_template_kwargs": {"tokenize": True}}, "'tokenize', which is no variable"),
        ({"chat_template": "no/such/file.jinja"}, "no/such/file.jinja' is no file"),
        ({"chat_template": "{{ messages[0].no.thing }}"}, "refuses the conversation"),
        ({"tools": "weather"}, "tools must be a list"),
        ({"add_generation_prompt": "yes"}, "add_generation_prompt='yes'"),
        ({"tool_parser": "hermez"}, "did you mean 'hermes'"),
    ],
)
def test_wrong_option_is_the_conversations_error(smol: LLM, options: dict[str, Any], expected: str) -> None:
    messages = [[USER], [USER]]
    results = smol.chat(messages, greedy(max_tokens=1), use_tqdm=False, **options)
    assert [expected in (result.error or "") for result in results] == [True, True], results[0].error


def test_wrong_message_is_named(smol: LLM) -> None:
    assert error_of(smol, [USER, {"role": "assistant", "content": 5}]).startswith("message 1: content=5")
    assert "messages must be a list" in error_of(smol, "hello")


def test_answer_is_taken_apart(smol: LLM) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
    answer = f"<think>\nFirst.\n</think>\n\nThen.\n{call}"
    ids = smol.get_tokenizer()(answer)["input_ids"]
    results = smol.chat(
        [[USER], [USER, {"role": "assistant", "content": "<think>"}, USER]],
        [forced(ids, n) for n in (len(ids), 6)],
        use_tqdm=False,
        reasoning_parser="think",
        tool_parser="hermes",
    )
    assert results[0].outputs[0].text == answer, "the text stays whole"
    message = results[0].outputs[0].message
    assert message is not None
    assert (message.content, message.reasoning) == ("Then.", "First.")
    assert dict(message.tool_calls[0].arguments) == {"city": "Bonn"}
    cut = results[1].outputs[0].message
    assert cut is not None
    assert (cut.content, cut.tool_calls) == (None, ())
    assert (cut.reasoning or "").startswith("First")
    history = [USER, message.to_openai(), {"role": "tool", "content": "9", "tool_call_id": message.tool_calls[0].id}]
    assert "(weather Bonn)\ntool:9" in prompt_of(smol, history, chat_template=WITH_TOOLS)


def test_special_tokens_as_marks(smol: LLM) -> None:
    """``<|im_start|>`` is special here: the text leaves it out, the parser must see it and leave none in the parts."""
    tokenizer = smol.get_tokenizer()
    body = 'Well<|im_start|>then.<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
    ids = tokenizer(body)["input_ids"]
    (output,) = smol.chat([USER], forced(ids, len(ids)), use_tqdm=False, tool_parser="hermes")
    message = output.outputs[0].message
    assert message is not None
    assert message.content == "Wellthen."
    assert message.tool_calls[0].arguments == {"x": 1}


def test_no_parser_no_message(smol: LLM) -> None:
    (output,) = smol.chat([USER], greedy(max_tokens=1), use_tqdm=False)
    assert output.outputs[0].message is None


def forced(ids: list[int], count: int) -> SamplingParams:
    """Parameters under which the test's patched sampler gives these tokens."""
    return SamplingParams(
        temperature=0,
        max_tokens=count,
        ignore_eos=True,
        bad_words=None,
        seed=SCRIPTS.setdefault(tuple(ids), len(SCRIPTS)),
    )


SCRIPTS: dict[tuple[int, ...], int] = {}


@pytest.fixture(autouse=True)
def scripted(smol: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests of ``forced`` draw their script's tokens; everything else runs as it is."""
    from dataclasses import replace

    runner: Any = smol._open.core.runner  # type: ignore[union-attr]
    launch = runner.launch

    def scripted_launch(*given: Any) -> Any:
        done = launch(*given)
        tokens = dict(done.value.tokens)
        for request in tokens:
            script = next((ids for ids, seed in SCRIPTS.items() if request.params.seed == seed), None)
            if script is not None:
                tokens[request] = script[len(request.output)]
        return replace(done, value=replace(done.value, tokens=tokens))

    monkeypatch.setattr(runner, "launch", scripted_launch)
