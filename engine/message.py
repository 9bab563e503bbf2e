"""An answer taken apart: what was said, what was thought, what is to be called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for. ``id`` follows from prompt, text and place: equal runs give equal ids."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class ChatMessage:
    """The assistant's message.

    ``content`` is what is left of the text once reasoning and calls are taken out; a call that cannot be read stays in
    it, and ``errors`` says what is wrong with it. ``None`` where there is nothing.
    """

    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    errors: tuple[str, ...] = ()
    role: str = "assistant"

    def to_openai(self) -> dict[str, Any]:
        """The message in OpenAI's form, as ``LLM.chat`` takes it back in the next turn."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            message["reasoning"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
                }
                for call in self.tool_calls
            ]
        return message
