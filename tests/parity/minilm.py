"""all-MiniLM-L6-v2 on 64 sentences, as sentence-transformers computes it.

That is: the tokenizer with max_seq_length of sentence_bert_config.json, BERT through
transformers in float32, the mean over the tokens of the sentence, unit length. Every
sentence runs alone, so no padding takes part; a padded batch is checked against it.

fixtures/minilm/: sentences.json (text and token ids), golden.safetensors with
`embeddings` float32 [64, 384], note.json.
"""

import json
import random

import common
import mlx.core as mx
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

ONE_WORD = ["Hello", "antidisestablishmentarianism", "42", "?", "Ünïcödé", "東京", "🦀"]
SHORT = [
    "",
    " ",
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing the violin.",
    "Two men pushed carts through the woods.",
    "A monkey is playing drums.",
    "A cheetah is running behind its prey.",
    "HELLO WORLD, THIS IS SHOUTED",
    "hello world, this is shouted",
    "Tabs\tand\nnewlines   and   many    spaces.",
    "E-mail me at someone@example.com, or don't.",
    "Prices rose by 3.14% to $1,000,000.00 in 2024.",
    "C++ and C# and F# are languages; so is Rust.",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Le cœur a ses raisons que la raison ne connaît point.",
    "El niño comió una piña en la cabaña.",
    "Быстрая коричневая лиса перепрыгивает через ленивую собаку.",
    "素早い茶色の狐がのろまな犬を飛び越える。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "השועל החום המהיר קופץ מעל הכלב העצלן.",
    "तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "Γρήγορη καφέ αλεπού πηδάει πάνω από τον τεμπέλη σκύλο.",
    "👩‍👩‍👧‍👦 a family, 🇫🇷 a flag, 👍🏽 a thumb",
    "zero\u200bwidth\u200djoiners and a\u0301ccents e\u0301n de\u0301composed form",
    "mathematical 𝒻𝒶𝓃𝒸𝓎 letters and ﬁgures ½ ² ™",
    "[CLS] and [SEP] written out, and [MASK] too",
    "control\x07characters\x00inside",
    "a" * 120,
]
VOCABULARY = (
    "time year people way day man thing woman life child world school state family student group country "
    "problem hand part place case week company system program question work government number night point "
    "home water room mother area money story fact month lot right study book eye job word business issue "
    "side kind head house service friend father power hour game line end member law car city community"
).split()


def sentences():
    """64 texts: single words, short ones, and 25 of growing length up to over 256 tokens."""
    rng = random.Random(20)
    long = []
    for i in range(64 - len(ONE_WORD) - len(SHORT)):
        words = [rng.choice(VOCABULARY) for _ in range(round(6 * 1.18**i))]
        for stop in range(9, len(words), 10):
            words[stop] += "."
        long.append(" ".join(words).capitalize() + ".")
    return ONE_WORD + SHORT + long


def embed(model, tokenizer, texts, limit):
    batch = tokenizer(texts, padding=True, truncation="longest_first", max_length=limit, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(mean, p=2, dim=1).numpy(), batch["input_ids"].tolist()


def generate(out, _args):
    folder = common.model_folder("all-minilm-l6-v2")
    limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    texts = sentences()
    assert len(texts) == 64
    alone, ids = [], []
    for text in texts:
        vector, tokens = embed(model, tokenizer, [text], limit)
        alone.append(vector[0])
        ids.append(tokens[0])
    alone = np.stack(alone)
    together, _ = embed(model, tokenizer, texts, limit)

    target = out / "minilm"
    target.mkdir(parents=True, exist_ok=True)
    cases = [{"text": text, "ids": tokens} for text, tokens in zip(texts, ids)]
    (target / "sentences.json").write_text("[\n" + ",\n".join(json.dumps(c, ensure_ascii=True) for c in cases) + "\n]\n")
    mx.save_safetensors(str(target / "golden.safetensors"), {"embeddings": mx.array(alone)})
    common.write_note(
        target,
        upstream=common.versions("torch", "transformers"),
        dtype="float32",
        tolerance=1e-4,
        reason="float32 throughout; cosine similarity must be at least 0.9999, which this keeps far away",
        model="all-minilm-l6-v2, from the Python package " + common.MODELS["all-minilm-l6-v2"][0],
        weights_sha256=common.sha256(folder / "model.safetensors"),
        max_seq_length=limit,
        lengths={"shortest": min(map(len, ids)), "longest": max(map(len, ids)), "truncated": sum(len(i) == limit for i in ids)},
        measured={
            "batched_against_single": float(f"{common.relative_difference(together, alone):.1e}"),
            "worst_batched_cosine": float((together * alone).sum(1).min()),
        },
    )


if __name__ == "__main__":
    common.run("Goldens of all-MiniLM-L6-v2", generate)
