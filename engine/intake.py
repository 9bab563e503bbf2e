"""What becomes of a prompt that arrives: its checks, and the requests that the scheduler gets for it."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from engine.costs import DecoderCosts
from engine.params import ParameterError, SamplingParams
from engine.params.sampling import taken
from engine.schedule.request import Request
from engine.seeds import derive_seed
from engine.structured.compiler import Grammar, GrammarCompiler
from engine.text.bad_words import BadWords
from engine.text.inputs import Input, InputError
from engine.text.prompt_embeds import embeds_salt
from engine.text.tokenizer import Tokenizer
from engine.token_checks import check_choice, check_token_ids

MAX_SEED = (1 << 63) - 1  # seeds of any size are cut to 63 bits: tensors hold them as int64


@dataclass(frozen=True, kw_only=True)
class GenerationModel:
    """What the engine knows of the model beside its weights.

    ``embedding_size``: values of a token's embedding where prompts may be embeddings, ``None`` where they may not.
    """

    vocab_size: int
    max_model_len: int
    eos_ids: frozenset[int]
    seed: int
    costs: DecoderCosts
    embedding_size: int | None = None


class Intake:
    """Checks prompts and makes requests of them."""

    def __init__(self, model: GenerationModel, tokenizer: Tokenizer | None) -> None:
        """Take what bounds requests and ends them, and what makes tokens of texts."""
        self._model = model
        self._tokenizer = tokenizer
        self._bad_words = BadWords(tokenizer, model.vocab_size)
        self._grammars = GrammarCompiler(tokenizer, model.vocab_size, model.eos_ids)

    def requests(
        self, index: int, prompt: Input, params: SamplingParams, seed_index: int | None = None
    ) -> list[Request]:
        """The prompt's ``n`` completions as requests.

        Args:
            index: of the prompt, in order of arrival.
            prompt: the prompt.
            params: of all completions.
            seed_index: the number that noise is drawn by where ``params`` name no seed; ``None`` takes ``index``.

        Raises:
            InputError: it is empty, too long, has ids that the model does not have, or asks for what is not there.
        """
        try:
            params = taken(params)
        except ParameterError as error:
            raise InputError(str(error)) from None
        self._check(prompt, params)
        model, eos_ids = self._model, frozenset() if params.ignore_eos else self._model.eos_ids
        stop_ids = eos_ids.union(params.stop_token_ids or ())
        bad_words = self._bad_words.sequences(params.bad_words or ())
        check_choice(params, stop_ids, bad_words)
        room = model.max_model_len - len(prompt.token_ids)
        seed = params.seed
        if seed is None:
            seed = derive_seed(model.seed, index if seed_index is None else seed_index)
        salt = prompt.cache_salt.encode("utf-8", "surrogatepass")  # any string will do
        salt = salt if prompt.embeds is None else embeds_salt(salt, prompt.embeds)
        rest = replace(params, prompt_logprobs=None) if params.prompt_logprobs is not None else params
        return [
            Request(
                index=index,
                child=child,
                prompt=prompt.token_ids,
                params=params if child == 0 else rest,  # the prompt is scored once
                max_output=room if params.max_tokens is None else min(params.max_tokens, room),
                stop_ids=stop_ids,
                eos_ids=eos_ids,
                seed=(seed + child) & MAX_SEED,
                priority=prompt.priority,
                salt=salt,
                bad_words=bad_words,
                embeds=prompt.embeds,
            )
            for child in range(params.n)
        ]

    def prepare(self, params: Iterable[SamplingParams]) -> None:
        """Begin with what requests that come soon need compiled, in another thread."""
        self._grammars.prepare(one.structured_outputs for one in params)

    def grammar(self, request: Request) -> Future[Grammar] | None:
        """The grammar of the form that the request's output must have, if any; it may be compiled yet.

        Raises:
            InputError: there cannot be one.
        """
        form = request.params.structured_outputs
        return None if form is None else self._grammars.compile(form, self.end_ids(request))

    def end_ids(self, request: Request) -> frozenset[int]:
        """Ids that end an output that has a form."""
        return request.stop_ids | self._model.eos_ids

    def _check(self, prompt: Input, params: SamplingParams) -> None:
        ids, limit = prompt.token_ids, self._model.max_model_len
        if not ids:
            raise InputError("the prompt is empty: it must have at least one token")
        if len(ids) >= limit:
            raise InputError(
                f"the prompt has {len(ids)} tokens; max_model_len={limit} leaves room for at most {limit - 1}"
            )
        check_token_ids(prompt, params, self._model.vocab_size)
        if prompt.embeds is not None:
            self._check_embeds(prompt.embeds.shape[1], params)
        if params.stop_strings and self._tokenizer is None:
            raise InputError("stop strings need a tokenizer, but skip_tokenizer_init is set: use stop_token_ids")

    def _check_embeds(self, size: int, params: SamplingParams) -> None:
        wanted = self._model.embedding_size
        if wanted is None:
            raise InputError("prompt_embeds needs enable_prompt_embeds=True among the engine's arguments")
        if size != wanted:
            raise InputError(f"prompt_embeds has {size} values for a token; the model's hidden size is {wanted}")
        if params.prompt_logprobs is not None:
            raise InputError("prompt_logprobs needs a prompt of tokens, not prompt_embeds")
