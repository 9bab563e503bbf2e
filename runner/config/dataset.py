"""The dataset sections: where rows come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from runner.config.sections import Section

Limit = Annotated[int, Field(ge=1)] | None


class ShardSection(Section):
    """Every ``count``-th row, beginning with row ``index``: the shards 0 to count - 1 together are the whole."""

    index: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _inside(self) -> ShardSection:
        if self.index >= self.count:
            raise ValueError(f"index={self.index} is not below count={self.count}")
        return self


class RowsSection(Section):
    """What every dataset has: its kind, which rows are taken (in this order of steps), and in which order they start.

    Args:
        filter: a Jinja expression over the row's columns; rows for which it is false are left out.
        sample: of those a uniform sample of so many rows, in their stored order.
        sample_seed: decides the sample.
        shard: of those a part, for runs that share the work.
        shuffle_seed: start the rows in the random order of this seed.
        limit: take so many rows at most (after shuffling, so that a limited shuffle is a uniform sample).
    """

    filter: str | None = None
    sample: Limit = None
    sample_seed: int = 0
    shard: ShardSection = ShardSection()
    limit: Limit = None
    shuffle_seed: int | None = None


class TableSection(RowsSection):
    """A dataset with columns; ``id_column`` names the rows, otherwise their numbers from 0 do."""

    id_column: str | None = None


class JsonlDataset(TableSection):
    """JSON objects, one a line, in a file or in the files of a glob, in the order of their names."""

    kind: Literal["jsonl"] = "jsonl"
    path: str


class CsvDataset(TableSection):
    """A table with a header line, in a file or in the files of a glob."""

    kind: Literal["csv"] = "csv"
    path: str
    delimiter: Annotated[
        str, Field(min_length=1, max_length=1), BeforeValidator(lambda text: "\t" if text == "\\t" else text)
    ] = ","  # \t may be written as two characters: Hydra's grammar has no escape for it


class ParquetDataset(TableSection):
    """Parquet files."""

    kind: Literal["parquet"] = "parquet"
    path: str


class TextDataset(TableSection):
    """Text files, a row for each file, line or paragraph, in the columns ``text`` and ``path``."""

    kind: Literal["text"] = "text"
    path: str
    pattern: str = "*.txt"
    unit: Literal["file", "line", "paragraph"] = "file"


class InlineDataset(TableSection):
    """Rows in the configuration itself; a text alone is the column ``text``."""

    kind: Literal["inline"] = "inline"
    rows: tuple[dict[str, Any] | str, ...]


class ShareGptDataset(TableSection):
    """Conversations as ShareGPT's exports have them: a JSON array, or an object a line."""

    kind: Literal["sharegpt"] = "sharegpt"
    path: str


class OpenAiBatchDataset(TableSection):
    """Requests in the format of OpenAI's batch API, an object a line; a request's own parameters win."""

    kind: Literal["openai_batch"] = "openai_batch"
    path: str
    id_column: str | None = "custom_id"


class HfDataset(TableSection):
    """A folder written by ``save_to_disk``, or a dataset of the hub."""

    kind: Literal["hf"] = "hf"
    path: str
    name: str | None = None
    split: str | None = None
    revision: str | None = None


Unused = Annotated[Any, Field(exclude=True)]  # a key of the other kind: Hydra lays mappings over one another


class FixedLength(Section):
    """Always the same number of tokens."""

    kind: Literal["fixed"] = "fixed"
    tokens: Annotated[int, Field(ge=1)]
    mu: Unused = None
    sigma: Unused = None
    min: Unused = None
    max: Unused = None


class UniformLength(Section):
    """Each number of tokens from ``min`` to ``max`` is as likely as any other."""

    kind: Literal["uniform"] = "uniform"
    min: Annotated[int, Field(ge=1)] = 4
    max: Annotated[int, Field(ge=1)] = 2000
    tokens: Unused = None
    mu: Unused = None
    sigma: Unused = None

    @model_validator(mode="after")
    def _ordered(self) -> UniformLength:
        if self.min > self.max:
            raise ValueError(f"min={self.min} is above max={self.max}")
        return self


class LognormalLength(Section):
    """exp(N(mu, sigma²)) tokens, cut to [min, max]; public chat logs look like this."""

    kind: Literal["lognormal"] = "lognormal"
    mu: float
    sigma: Annotated[float, Field(ge=0)]
    min: Annotated[int, Field(ge=1)] = 4
    max: Annotated[int, Field(ge=1)] = 2000
    tokens: Unused = None

    @model_validator(mode="after")
    def _ordered(self) -> LognormalLength:
        if self.min > self.max:
            raise ValueError(f"min={self.min} is above max={self.max}")
        return self


Length = Annotated[FixedLength | LognormalLength | UniformLength, Field(discriminator="kind")]


class SyntheticDataset(RowsSection):
    """Random token ids below ``max_token_id``, in the columns ``prompt_token_ids`` and ``max_tokens``."""

    kind: Literal["synthetic"] = "synthetic"
    rows: Annotated[int, Field(ge=1)] = 256
    seed: int = 0
    input_length: Length = FixedLength(tokens=128)
    output_length: Length = FixedLength(tokens=128)
    shared_prefix: Annotated[int, Field(ge=0)] = 0
    min_token_id: Annotated[int, Field(ge=0)] = 10
    max_token_id: Annotated[int, Field(ge=1)] = 32000

    @model_validator(mode="after")
    def _ordered(self) -> SyntheticDataset:
        if self.min_token_id >= self.max_token_id:
            raise ValueError(f"min_token_id={self.min_token_id} is not below max_token_id={self.max_token_id}")
        return self


DatasetSection = Annotated[
    JsonlDataset
    | CsvDataset
    | ParquetDataset
    | TextDataset
    | InlineDataset
    | HfDataset
    | ShareGptDataset
    | OpenAiBatchDataset
    | SyntheticDataset,
    Field(discriminator="kind"),
]
