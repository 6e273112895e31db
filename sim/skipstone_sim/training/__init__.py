"""The recipe of the shipped models: a story grammar, a tokenizer and a trainer.

Nothing here is needed to *run* a model. The grammar (:mod:`.stories`) tells short stories about a
small world and asks questions whose answers follow from that world, so that skipping and
quantization can be judged by right and wrong answers and not by perplexity alone. The tokenizer
(:mod:`.tokenizer`) is a byte-level BPE trained on it, and the trainer (:mod:`.trainer`) makes the
dense Llama and its SkipGPT routers. ``scripts/train_models`` runs all three from a seed.
"""

__all__: list[str] = []
