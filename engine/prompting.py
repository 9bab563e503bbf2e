"""What callers pass as prompts, parameters and priorities, as one lazy stream of requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from engine.errors import UnsupportedOptionError
from engine.params import ParameterError, PoolingParams, Prompt, SamplingParams

Params = SamplingParams | PoolingParams


class Prompts(NamedTuple):
    """Prompts that are pulled one by one, and their number where it is known."""

    items: Iterable[Prompt]
    total: int | None


def read_prompts(prompts: Prompt | Iterable[Prompt]) -> Prompts:
    """One prompt or many; a sequence of integers is one prompt. Iterators are not drawn out.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(prompts, (str, bytes, bytearray, Mapping)):
        return Prompts([cast(Prompt, prompts)], 1)
    _check_iterable("prompts", prompts)
    if not isinstance(prompts, Sequence):
        return Prompts(prompts, None)
    if prompts and all(isinstance(item, int) for item in prompts):
        return Prompts([cast(Prompt, prompts)], 1)
    return Prompts(cast(Iterable[Prompt], prompts), len(prompts))


def read_conversations(messages: Any) -> Prompts:
    """One conversation, as a list of messages, or many.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(messages, (str, Mapping)):
        return Prompts([cast(Prompt, messages)], 1)
    _check_iterable("messages", messages)
    if not isinstance(messages, Sequence):
        return Prompts(cast(Iterable[Prompt], messages), None)
    if messages and isinstance(messages[0], Mapping):
        return Prompts([cast(Prompt, messages)], 1)
    return Prompts(cast(Iterable[Prompt], messages), len(messages))


def _check_iterable(name: str, value: object) -> None:
    if not isinstance(value, Iterable) and not hasattr(value, "__getitem__"):
        what = "a prompt, or an iterable of prompts" if name == "prompts" else "a list of messages, or several of them"
        raise TypeError(f"{name} must be {what}, not {value!r:.80}")


def with_params(prompts: Iterable[Prompt], params: Params | Iterable[Params], model: str) -> Iterator[Any]:
    """Each prompt with its parameters: one for all, or one each.

    Raises:
        ValueError: there are fewer parameters than prompts, or a list of more.
    """
    if isinstance(params, (SamplingParams, PoolingParams)):
        yield from zip(prompts, itertools.repeat(params), strict=False)
        return
    if isinstance(params, (str, Mapping)) or not isinstance(params, Iterable):
        raise TypeError(f"parameters of model {model!r} must be one SamplingParams or PoolingParams, or one each")
    each = iter(params)
    for count, prompt in enumerate(prompts):
        try:
            yield prompt, next(each)
        except StopIteration:
            raise ValueError(f"{count} parameters for more prompts: give one for all or one each") from None
    if isinstance(params, Sequence) and next(each, None) is not None:
        raise ValueError(f"{len(params)} parameters for fewer prompts: give one for all or one each")


def check_count(count: int | None, values: object, what: str) -> None:
    """Refuse a list of values that is not one for each of ``count`` prompts.

    Raises:
        ValueError: the numbers differ.
    """
    if count is not None and isinstance(values, Sequence) and len(values) != count:
        raise ValueError(f"{len(values)} {what} for {count} prompts: give one for all or one each")


def with_priority(prompts: Prompts, priority: int | Sequence[int], policy: str) -> Prompts:
    """Prompts with their priorities.

    Raises:
        ParameterError: the engine's policy takes none.
        ValueError: there is not one for each prompt.
    """
    given = [priority] if isinstance(priority, int) else priority
    if policy != "priority" and any(given):
        raise ParameterError("priority", priority, "left out or 0 unless scheduling_policy is 'priority'")
    check_count(prompts.total, priority, "priorities")
    each = itertools.repeat(priority) if isinstance(priority, int) else iter(priority)
    paired = ({**_as_mapping(prompt), "priority": value} for prompt, value in zip(prompts.items, each, strict=False))
    return Prompts(paired, prompts.total)


def refuse_lora(lora_request: object) -> None:
    """Refuse a LoRA request.

    Raises:
        UnsupportedOptionError: there is one.
    """
    each = lora_request if isinstance(lora_request, (list, tuple)) else [lora_request]
    if any(one is not None for one in each):
        raise UnsupportedOptionError("lora_request is not supported yet: merge the adapter into the model's weights")


def _as_mapping(prompt: Prompt) -> Mapping[str, Any]:
    if isinstance(prompt, Mapping):
        return prompt
    return {"prompt": prompt} if isinstance(prompt, str) else {"prompt_token_ids": prompt}
