"""Tiny random checkpoints in the Hugging Face layout, and the tokenizer they share."""

import json

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 300
END_OF_TEXT = "<|endoftext|>"

TRAINING_TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog lets the fox be.",
    "A byte-level tokenizer can spell every string, even one that it has never seen.",
    "Numbers such as 1, 22 and 333 are words as well; so are naïve, façade and Straße.",
    "there is nothing like the smell of the sea in the morning, said the other sailor",
]

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "[{{ message['role'] }}]{{ message['content'] | trim }}\n"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}[assistant]{%- endif -%}"
)


def tokenizer():
    """A byte-level BPE of 300 tokens: the end of text, 256 bytes, 43 merges."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(TRAINING_TEXT, trainer)
    assert tok.get_vocab_size() == VOCAB_SIZE, tok.get_vocab_size()
    return tok


def write_tokenizer(folder, chat_template):
    """tokenizer.json and its config; the template inside it, beside it, or not at all."""
    (folder / "tokenizer.json").write_text(tokenizer().to_str() + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
    }
    if chat_template == "inside":
        config["chat_template"] = CHAT_TEMPLATE
    elif chat_template == "beside":
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def random_weights(model, seed, dtype):
    """Fills `model` from `seed`.

    Two choices make greedy decoding clear-cut rather than a matter of rounding. The
    layers speak louder than the embedding, or a tied model would repeat one token for
    ever; and the rows of the output matrix differ widely in length, which spreads the
    largest logits apart.
    """
    rng = np.random.default_rng(seed)
    filled = []
    for name, old in sorted(tree_flatten(model.parameters())):
        noise = rng.standard_normal(old.shape)
        if "norm" in name:
            value = 1 + 0.1 * noise
        elif name.endswith(".bias"):
            value = 0.2 * noise
        elif "embed_tokens" in name or "lm_head" in name:
            value = noise * np.exp(1.0 * rng.standard_normal((old.shape[0], 1))) * 0.25
        else:
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 2.0
            if "o_proj" in name or "down_proj" in name:
                gain = 3.0
            value = noise * gain / np.sqrt(old.shape[-1])
        filled.append((name, mx.array(value.astype(np.float32)).astype(dtype)))
    model.update(tree_unflatten(filled))
    mx.eval(model.parameters())


def random_values(rng, name, shape, model_type):
    """Random values for one tensor of a published checkpoint; see `random_weights` for the gains."""
    noise = rng.standard_normal(shape)
    if "norm" in name or name.split(".")[-2].startswith("ln_"):
        # Gemma 2 and 3 store what is added to one, and all of them normalise what a layer says:
        # it has to speak louder than the embedding here too.
        zero_centred = model_type in ("gemma2", "gemma3_text") or name.endswith("bias")
        loud = model_type.startswith("gemma") and "post_" in name
        return (0.0 if zero_centred else 1.0) + (3.0 if loud else 0.0) + 0.1 * noise
    if name.endswith(("layer_scalar", "per_expert_scale", "router.scale")):
        return 1 + 0.1 * noise
    if name.endswith("bias"):
        return 0.2 * noise
    if name.endswith("sinks"):
        return noise
    if "embed_tokens.weight" in name or "lm_head" in name or "wte" in name:
        quiet = model_type.startswith(("gemma", "gpt2"))
        spread, scale = (0.4, 0.06) if quiet else (1.0, 0.25)
        return noise * np.exp(spread * rng.standard_normal((shape[0], 1))) * scale
    gain = 2.0
    if any(part in name for part in ("q_proj", "k_proj", "q_a_proj", "q_b_proj", "kv_a_proj")):
        gain = 1.5
    elif "o_proj" in name or "down_proj" in name:
        gain = 3.0
    elif "c_proj" in name:
        gain = 6.0
    return noise * gain / np.sqrt(shape[-1])


def write_weights(folder, model, shards=1):
    """model.safetensors, or `shards` files with the index that names them."""
    weights = dict(sorted(tree_flatten(model.parameters())))
    meta = {"format": "mlx"}
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata=meta)
        return
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: weights[key] for key in list(weights)[i::shards]}
        mx.save_safetensors(str(folder / name), part, metadata=meta)
        weight_map.update({key: name for key in part})
    index = {
        "metadata": {"total_size": sum(w.nbytes for w in weights.values())},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
