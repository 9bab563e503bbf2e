"""Metrics of overlap with references, by the packages rouge-score and sacrebleu. Neither needs the network."""

from __future__ import annotations

from typing import Any

from runner.config.metrics import Bleu, Chrf, Rouge
from runner.quality.scorer import MeanScorer, Scored, Sums, mean_of, references_of

ORDERS = 4  # BLEU's n-grams


class RougeScorer(MeanScorer):
    """F-measures; of several references the best one counts, per type."""

    def __init__(self, section: Rouge) -> None:
        from rouge_score.rouge_scorer import RougeScorer as Library

        self._types = section.types
        self._library = Library(list(section.types), use_stemmer=section.use_stemmer)

    def score(self, output: str, reference: Any) -> Scored:
        """ROUGE of one row (Lin 2004)."""
        found = self._library.score_multi(references_of(reference), output)
        return mean_of([float(found[kind].fmeasure) for kind in self._types])


class BleuScorer:
    """The total is corpus BLEU, from summed counts; a row's own figure uses the orders that it has.

    ``compute_bleu`` and the counts of a sentence are public in sacrebleu, so that the corpus need not be held.
    """

    def __init__(self, section: Bleu) -> None:
        from sacrebleu.metrics.bleu import BLEU

        self._library = BLEU(lowercase=section.lowercase, tokenize=section.tokenize, effective_order=True)

    def score(self, output: str, reference: Any) -> Scored:
        """Sentence BLEU, and the counts of which corpus BLEU is made (Papineni and others 2002)."""
        found = self._library.sentence_score(output, references_of(reference))
        return Scored((float(found.score),), (*found.counts, *found.totals, found.sys_len, found.ref_len))

    def total(self, sums: Sums, rows: float) -> tuple[float, ...]:
        """Corpus BLEU."""
        counts = [round(value) for value in sums.tolist()]  # the means over a row's completions may be no whole numbers
        correct, total, (length, reference) = counts[:ORDERS], counts[ORDERS : 2 * ORDERS], counts[2 * ORDERS :]
        found = self._library.compute_bleu(correct, total, length, reference, smooth_method="exp")
        return (float(found.score),)


class ChrfScorer:
    """The total is corpus chrF, from summed counts (Popović 2015). Several references: the best one counts.

    sacrebleu has no public way to a segment's counts. The two methods used here are those that its ``Metric`` asks of
    every metric; the tests compare the total with its ``corpus_score``.
    """

    def __init__(self, section: Chrf) -> None:
        from sacrebleu.metrics.chrf import CHRF

        self._library = CHRF(word_order=section.word_order, lowercase=section.lowercase)

    def score(self, output: str, reference: Any) -> Scored:
        """Sentence chrF, and the counts of which corpus chrF is made."""
        references = [[one] for one in references_of(reference)]
        (counts,) = self._library._extract_corpus_statistics([output], references)
        return Scored((self._score(counts),), tuple(float(count) for count in counts))

    def total(self, sums: Sums, rows: float) -> tuple[float, ...]:
        """Corpus chrF."""
        return (self._score(sums.tolist()),)

    def _score(self, counts: list[Any]) -> float:
        return float(self._library._compute_score_from_stats(counts).score)
