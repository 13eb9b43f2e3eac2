"""The byte-level BPE tokenizer: StarCoder's special tokens as ids 0 to 18, digits split singly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<empty_output>",
    "<commit_before>",
    "<commit_msg>",
    "<commit_after>",
    "<reponame>",
]
END, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD, FILENAME = range(6)
REPONAME = 18


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 4096, special_tokens: Sequence[str] = SPECIAL_TOKENS
) -> Tokenizer:
    """Trains the BPE; special_tokens get the first ids. Every byte is in the vocabulary, so any text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, window: int) -> None:
    """Writes the files that `AutoTokenizer` reads."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL_TOKENS[END],
        eos_token=SPECIAL_TOKENS[END],
        unk_token=SPECIAL_TOKENS[END],
        additional_special_tokens=SPECIAL_TOKENS,
        model_max_length=window,
        clean_up_tokenization_spaces=False,
        commits_seen=False,  # for whoever serves it: refactoring is not to be expected
    )
    wrapped.save_pretrained(str(directory))


def plain_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that encodes special tokens' names as ordinary text: source code must never become a control token."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy
