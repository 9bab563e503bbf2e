# ruff: noqa: RUF001
"""Prompts in many scripts, with emoji, marks that combine, and both directions of writing."""

from __future__ import annotations

import random

WORDS = (
    "the quick brown fox; doesn't, won't & can't",
    "Größe naïve façade Œuvre São smörgåsbord",
    "Привет, мир! Съешь ещё этих мягких булок",
    "Γειά σου Κόσμε, ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "שלום עולם, דג סקרן שט בים",
    "مرحبا بالعالم، نص حكيم له سر قاطع",
    "नमस्ते दुनिया क्षेत्रज्ञ श्रृंखला",
    "স্বাগতম பொன்மொழி ಕನ್ನಡ മലയാളം ગુજરાતી",
    "สวัสดีชาวโลก เป็นมนุษย์สุดประเสริฐ",
    "日本語の文章、いろはにほへと ちりぬるを",
    "中文句子,天地玄黄宇宙洪荒",
    "안녕하세요 세계 다람쥐 헌 쳇바퀴에 타고파",
    "გამარჯობა մարդ ልጅ ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 👍🏽 🧑‍🚀 ☕️",
    "e\u0301 a\u0308\u0323 Z\u0351\u036b\u0343a\u0334l\u0337g\u0321o\u0322",
    "\u202bمختلط mixed עברית\u202c \u200f\u200e zero\u200bwidth\u2060",
    "𝕬𝖑𝖕𝖍𝖆 𐍈𐌰𐌽 🀄 𝟘𝟙𝟚 ㊙️",
    "\t  \n\n\ufffd  \x00 ends\r\n",
)


def prompts(count: int, seed: int = 5) -> list[str]:
    """``count`` different prompts of one to four scripts."""
    chooser = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        parts = [_part(chooser, chooser.choice(WORDS)) for _ in range(chooser.randint(1, 4))]
        found[chooser.choice((" ", "", "\n")).join(parts)] = None
    return list(found)


def _part(chooser: random.Random, words: str) -> str:
    start = chooser.randrange(len(words) // 2)
    return words[start : start + chooser.randint(3, 24)]
