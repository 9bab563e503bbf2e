"""Guesses of the tokens that come next, checked by the model many at a time (speculative decoding)."""
