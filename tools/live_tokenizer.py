"""Make a small tokenizer for load generators: byte-level pairs, learned from text that is made up here."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers


def text(rng: random.Random, words: int) -> str:
    """Make up words of syllables, some of them often."""
    syllables = [first + second for first in "bdfgklmnprstv" for second in ("a", "e", "i", "o", "u", "an", "or")]
    known = ["".join(rng.choice(syllables) for _ in range(rng.randint(1, 4))) for _ in range(2000)]
    chosen = (known[min(int(rng.expovariate(1 / 200)), 1999)] for _ in range(words))
    return " ".join(word.capitalize() + "." if rng.random() < 0.1 else word for word in chosen)


def make(folder: Path) -> None:
    """Write `tokenizer.json` and what names its first and last token."""
    rng = random.Random(7)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text(rng, 200) for _ in range(300)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 8192,
        "chat_template": "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}assistant\n",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
