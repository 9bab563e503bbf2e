"""Changes to a model's config that the caller asks for (``hf_overrides``)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from engine.params import ParameterError

Overrides = Mapping[str, Any] | Callable[[Any], Any] | None
# Consumed before the architecture is read: their entries are lifted to the top.
LIFTED = ("text_config", "rope_parameters")


class EditableConfig(dict[str, Any]):
    """A config for a caller's function, with entries as keys and as attributes, as transformers' configs have them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the model's config has no entry {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


class ReadConfig(dict[str, Any]):
    """A config that knows which of its entries were looked at."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The entry, or ``default``."""
        self.read.add(key)
        return super().get(key, default)


def overridden(config: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """The config with mappings merged in, level by level, or as a function returns it.

    Raises:
        ParameterError: the function gives no mapping.
    """
    if overrides is None or isinstance(overrides, Mapping):
        return _merged(config, overrides or {})
    changed = overrides(EditableConfig(config))
    if not isinstance(changed, Mapping):
        raise ParameterError("hf_overrides", changed, "a mapping, or a function that returns the config it is given")
    return dict(changed)


def check_effective(overrides: Overrides, config: ReadConfig) -> None:
    """Refuse an override that nothing has looked at.

    Raises:
        ParameterError: it names the entry and the nearest one that is read.
    """
    names: Mapping[str, Any] = overrides if isinstance(overrides, Mapping) else {}
    unread = next((name for name in names if name not in config.read and name not in LIFTED), None)
    if unread is not None:
        near = difflib.get_close_matches(unread, config.read, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; this model reads {', '.join(sorted(config.read))}"
        raise ParameterError("hf_overrides", {unread: names[unread]}, f"an entry that has an effect here{hint}")


def _merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(config)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
