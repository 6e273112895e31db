"""The tokenizer of the shipped models: byte-level BPE with 512 tokens.

Ids are fixed by construction: 0 is ``<|bos|>``, 1 is ``<|eos|>``, 2 … 257 are the 256 bytes (so any
text can be encoded, and there is no unknown token), and the rest are merges in order of frequency.
``encode`` puts ``<|bos|>`` in front, as Llama's own tokenizers do; nobody appends ``<|eos|>`` but
the trainer, because it is what a model says when its story is over.

Byte-level BPE: Sennrich et al., arXiv 1508.07909, over bytes as in GPT-2 (Radford et al., 2019,
§2.2).
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

__all__ = ["BOS", "EOS", "VOCAB", "train_tokenizer"]

BOS, EOS, VOCAB = 0, 1, 512


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of exactly ``VOCAB`` tokens trained on ``texts``; their order decides ties."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=["<|bos|>", "<|eos|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)]
    )
    if tokenizer.get_vocab_size() != VOCAB:
        raise ValueError(
            f"the texts must yield {VOCAB} tokens, not {tokenizer.get_vocab_size()}: give more text"
        )
    return tokenizer
