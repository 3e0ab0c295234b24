"""prose-5m through Python mlx-lm: ten prompts, 64 greedy tokens each.

The checkpoint itself lies in fixtures/prose-5m. `golden.json` holds per prompt its
text, token ids, the greedy tokens, their text, and the smallest margin.

`--search` ranks a longer list of openings by their smallest margin; the ten below are
its best, because two logits that round to one bfloat16 leave no answer to compare.
"""

import common
import mlx.core as mx
import numpy as np
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load

NEW_TOKENS = 64

PROMPTS = [
    "David the son of Jesse",
    "Behold, the prophet of the house",
    "The rain of the house",
    "The king had been",
    "The rain could not",
    "The king, who",
    "It is a truth universally acknowledged",
    "And Moses is a",
    "A gentleman had been",
    "Captain Wentworth",
]

SUBJECTS = [
    "The king", "Elizabeth", "Mr. Darcy", "She", "And the LORD", "My dear sister", "A gentleman", "The children of Israel",
    "Emma", "Anne", "And Moses", "His father", "The rain", "Captain Wentworth", "David the son of Jesse", "Marriage, n.",
    "Behold, the prophet", "Lady Russell", "Their house", "Politics, n.", "Catherine", "The young man", "And it came to pass that he",
]
ENDINGS = ["", " said", " was", " had been", " could not", " went up to", " of the house", ", who", " is a", " and the"]
OPENINGS = [
    "It is a truth universally acknowledged",
    "In the beginning",
    "Lawyer, n.",
    "The morning was",
    "Once upon a time",
    "I am",
]


def greedy(model, prompt):
    """The tokens of mlx-lm's own generation loop, and the smallest distance of the two best logits."""
    tokens, margins = [], []
    for token, logprobs in generate_step(mx.array(prompt), model, max_tokens=NEW_TOKENS):
        tokens.append(int(token))
    cache = make_prompt_cache(model)
    logits = model(mx.array(prompt)[None], cache=cache)[0, -1]
    for token in tokens:
        row = np.array(logits.astype(mx.float32))
        second, first = np.partition(row, -2)[-2:]
        margins.append(float(first - second))
        logits = model(mx.array([[token]]), cache=cache)[0, -1]
    return tokens, min(margins)


def generate(out, args):
    mx.set_default_device(mx.cpu)
    model, tokenizer = load(str(args.fixtures / "prose-5m"))
    if args.search:
        ranked = []
        for text in [s + e for s in SUBJECTS for e in ENDINGS] + OPENINGS:
            tokens, margin = greedy(model, tokenizer.encode(text))
            if 0 not in tokens:
                ranked.append((margin, len(set(tokens)), text))
        for entry in sorted(ranked, reverse=True)[:24]:
            print(entry)
        return
    cases, margins = [], {}
    for text in PROMPTS:
        ids = tokenizer.encode(text)
        tokens, margin = greedy(model, ids)
        margins[text] = round(margin, 4)
        cases.append({"prompt": text, "ids": ids, "tokens": tokens, "text": tokenizer.decode(tokens)})
    common.write_json(out / "prose-5m" / "golden.json", cases)
    common.write_note(
        out / "prose-5m",
        upstream=common.versions("mlx", "mlx-lm"),
        dtype="bfloat16",
        tolerance=0,
        reason="greedy tokens must be identical; the margins say how far each choice is from a tie, in logits",
        model="prose-5m, see README.md beside this note",
        weights_sha256=common.sha256(args.fixtures / "prose-5m" / "model.safetensors"),
        measured={"smallest_margin": margins},
    )


if __name__ == "__main__":
    common.run(
        "Goldens of prose-5m",
        generate,
        search={"action": "store_true", "help": "rank a longer list of openings instead of writing"},
    )
