"""The metrics of outputs that a recipe may ask for; each has ``/low`` and ``/high``, its 95% interval."""

from __future__ import annotations

from runner.measure.metric import Metric

_ROUGE = "F-measure of {} shared with the reference (rouge-score), mean over the rows. Words are runs of a-z and 0-9."

QUALITY: tuple[Metric, ...] = (
    Metric(
        "exact_match",
        "Exact match",
        "share",
        "Share of the rows whose output is the reference.",
        "quality",
        better="higher",
    ),
    Metric(
        "regex_match",
        "Regex match",
        "share",
        "Share of the rows in whose output the pattern is found; with a reference, whose last match captured it.",
        "quality",
        better="higher",
    ),
    Metric("rouge1", "ROUGE-1", "0 to 1", _ROUGE.format("words"), "quality", better="higher"),
    Metric("rouge2", "ROUGE-2", "0 to 1", _ROUGE.format("pairs of words"), "quality", better="higher"),
    Metric(
        "rougeL",
        "ROUGE-L",
        "0 to 1",
        _ROUGE.format("the longest common subsequence of words"),
        "quality",
        better="higher",
    ),
    Metric(
        "rougeLsum",
        "ROUGE-Lsum",
        "0 to 1",
        _ROUGE.format("the longest common subsequences, line by line,"),
        "quality",
        better="higher",
    ),
    Metric("bleu", "BLEU", "0 to 100", "Corpus BLEU (sacrebleu, exponential smoothing).", "quality", better="higher"),
    Metric("chrf", "chrF", "0 to 100", "Corpus chrF (sacrebleu).", "quality", better="higher"),
    Metric(
        "json_valid",
        "Valid JSON",
        "share",
        "Share of the rows whose output is a JSON document, and valid under the schema if there is one.",
        "quality",
        better="higher",
    ),
    Metric("output_characters", "Characters", "characters", "Characters of the output, mean over the rows.", "quality"),
    Metric(
        "output_words",
        "Words",
        "words",
        "Words of the output, separated by white space, mean over the rows.",
        "quality",
    ),
)
