"""Tokenizers and chat templates of published models, as transformers reads them.

fixtures/text/real/:
  pieces.json         what hostile strings are made of, and the conversations
  <name>.json         digests of what transformers makes of 2,000 strings, of 300 sequences of random
                      ids, and of 50 conversations

The strings themselves follow from the pieces and a seed by a generator that the Rust test repeats.
Each digest covers fifty strings, so that a difference is found without a file of megabytes.
"""

import copy
import datetime
import hashlib
import json
import os
import subprocess

import common
import text_real
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

NAMES = ["qwen3", "llama3_1", "gemma3", "gptoss", "mistral_nemo", "deepseek_v3"]
VERSION = "3.7.2"
STRINGS, BLOCK, SEQUENCES = 2000, 50, 300


class Clock(datetime.datetime):
    """Templates that ask for the time get this one."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 22, 12, 0, 0)


chat_template_utils.datetime = Clock


class Chance:
    """The generator of tests/it/tokenizers.rs."""

    def __init__(self, seed):
        self.state = seed

    def below(self, bound):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % bound


def hostile(chance, pieces):
    text = ""
    for _ in range(1 + chance.below(24)):
        kind = chance.below(10)
        if kind < 7:
            text += pieces[chance.below(len(pieces))]
        elif kind < 9:
            text += chr(32 + chance.below(95))
        else:
            code = chance.below(0x2FFFF)
            text += "?" if 0xD800 <= code < 0xE000 else chr(code)
    return text


def digest(lines):
    return hashlib.sha256("\0".join(lines).encode("utf-8")).hexdigest()[:16]


def blocks(lines, size):
    return [digest(lines[at : at + size]) for at in range(0, len(lines), size)]


def golden(name):
    folder = common.cache_dir() / "tokenizers" / f"{name}-{VERSION}"
    if not folder.is_dir():
        subprocess.run([os.environ.get("CARGO", "cargo"), "xtask", "tokenizers", name], check=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chance = Chance(20)
    texts = [hostile(chance, text_real.PIECES) for _ in range(STRINGS)]
    encoded = [" ".join(map(str, tokenizer.encode(text, add_special_tokens=False))) for text in texts]
    framed = [" ".join(map(str, tokenizer.encode(text))) for text in texts]
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if config.get("add_bos_token") and tokenizer.encode("") == []:
        # The class that transformers 5 falls back to for DeepSeek drops this setting, which its own
        # tokenizer class of version 4, and the model's makers, obey.
        framed = [f"{tokenizer.bos_token_id} {ids}".strip() for ids in framed]
    chance = Chance(21)
    size = len(tokenizer)
    decoded = []
    for _ in range(SEQUENCES):
        ids = [chance.below(size) for _ in range(1 + chance.below(30))]
        decoded.append(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        decoded.append(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    back = [
        tokenizer.decode([int(id) for id in ids.split()], clean_up_tokenization_spaces=False) for ids in encoded
    ]
    template = tokenizer.chat_template or text_real.TEMPLATES.get(name)
    rendered = []
    for chat in text_real.conversations():
        chat = copy.deepcopy(chat)
        options = chat.get("options", {})
        try:
            prompt = tokenizer.apply_chat_template(
                chat["messages"], chat_template=template, tools=chat.get("tools"), tokenize=False, **options
            )
            rendered.append(digest([prompt]))
        except Exception:
            rendered.append("refused")
    return {
        "size": size,
        "ids": blocks(encoded, BLOCK),
        "framed": blocks(framed, BLOCK),
        "back": blocks(back, BLOCK),
        "decoded": blocks(decoded, BLOCK),
        "rendered": rendered,
    }


def generate(out, args):
    target = out / "text/real"
    target.mkdir(parents=True, exist_ok=True)
    shared = {
        "pieces": text_real.PIECES,
        "conversations": text_real.conversations(),
        "templates": text_real.TEMPLATES,
    }
    lines = json.dumps(shared, ensure_ascii=True, separators=(",", ":"))
    (target / "pieces.json").write_text(lines + "\n", encoding="utf-8")
    for name in NAMES:
        (target / f"{name}.json").write_text(json.dumps(golden(name), separators=(",", ":")) + "\n", encoding="utf-8")
        print(name, "done", flush=True)


if __name__ == "__main__":
    common.run("Goldens of published tokenizers", generate)
