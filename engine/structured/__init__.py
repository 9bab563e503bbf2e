"""Structured outputs: grammars compiled with llguidance, matchers that follow outputs, masks for the draw."""
