"""Hydra's flags on the command line, looked at before Hydra: its own messages are its whole usage."""

from __future__ import annotations

from collections.abc import Sequence

from runner.errors import ConfigError, nearest

FLAGS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r",
    "--multirun", "-m", "--shell-completion", "-sc", "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip
_LONG = [flag for flag in FLAGS if flag.startswith("--")]
_NOT_HERE = ("--config-path", "-cp", "--config-name", "-cn")


def check_flags(words: Sequence[str]) -> None:
    """Refuse flags that there are not, and parts of the configuration that there are not.

    Raises:
        ConfigError: the message names the flag or the part, and the nearest one.
    """
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            continue
        if flag in _NOT_HERE:
            raise ConfigError(f"{flag} has no meaning here: recipes are +recipe=NAME, own ones in --config-dir FOLDER")
        whole = [known for known in FLAGS if known == flag] or [known for known in _LONG if known.startswith(flag)]
        if not whole:
            raise ConfigError(f"there is no flag {flag}{nearest(flag, FLAGS)}\nflags: {', '.join(FLAGS)}")
        if whole[0] in ("--package", "-p"):
            _check_part(value if equals else "".join(words[place + 1 : place + 2]))


def _check_part(part: str) -> None:
    from runner.config.keys import known_keys

    known, (section, _, name) = known_keys(), part.rpartition(".")
    if part and part not in ("hydra", "_global_") and section in known and name not in known[section]:
        parts = [f"{within}.{key}" if within else key for within, keys in known.items() for key in keys]
        raise ConfigError(f"--package={part!r} is no part of the configuration{nearest(part, parts)}")
