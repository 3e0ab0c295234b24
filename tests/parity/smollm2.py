"""SmolLM2-135M-Instruct: how transformers reads the GGUF file that `mlx-lm` runs by default.

transformers dequantises the file to float32 and takes tokenizer and chat template from
its metadata. fixtures/smollm2/:
  chats.json           conversations, their rendering by the chat template, token ids
  texts.json           plain strings and their token ids
  answer.json          32 greedy tokens after the question of the README
  golden.safetensors   for each prompt n: `top_ids_n`/`top_values_n` [P, 64], the largest
                       logits at the positions `positions_n`, and `row_0` float32 [49152],
                       every logit of the first prompt's last position
"""

import common
import mlx.core as mx
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTION = "What is the capital of France?"
ANSWER_TOKENS = 32
TOP = 64

CHATS = [
    [{"role": "user", "content": QUESTION}],
    [{"role": "system", "content": "You answer in one word."}, {"role": "user", "content": QUESTION}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! How can I help you today?"},
        {"role": "user", "content": "Write a haiku\nabout the sea.  "},
    ],
    [{"role": "system", "content": ""}, {"role": "user", "content": ""}],
    [{"role": "user", "content": "Ünïcödé: 東京 🦀, <|im_start|> is a marker, {{ braces }} are not"}],
    [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}],
]
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  leading and trailing  ",
    "tabs\tand\nnew\r\nlines\n\n\n",
    "Numbers 1 22 333 4444 55555 and 3.14159",
    "Zażółć gęślą jaźń — naïve façade Straße",
    "東京は日本の首都です。",
    "👩‍👩‍👧‍👦 🇫🇷 👍🏽",
    "fn main() { println!(\"{}\", 1 << 4); }",
    "<|im_start|>user\nspelled out<|im_end|>\n",
    "don't can't won't I'll we've SHE'S",
    "a\u0301 combining and \u200b zero width \ufeff",
]


def generate(out, _args):
    folder = common.model_folder("smollm2-135m-instruct")
    file = next(folder.glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32).eval()

    target = out / "smollm2"
    chats = []
    for messages in CHATS:
        for prompted in (True, False):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompted)
            ids = tokenizer.encode(text, add_special_tokens=False)
            chats.append({"messages": messages, "add_generation_prompt": prompted, "text": text, "ids": ids})
    common.write_json(target / "chats.json", chats)
    common.write_json(target / "texts.json", [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False)} for t in TEXTS])

    arrays = {}
    prompts = [chats[0]["ids"], chats[2]["ids"], chats[4]["ids"]]
    for n, ids in enumerate(prompts):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        positions = sorted({0, len(ids) // 2, len(ids) - 1})
        values, top = logits[positions].topk(TOP, dim=-1)
        arrays[f"prompt_{n}"] = mx.array(np.array(ids, dtype=np.int32))
        arrays[f"positions_{n}"] = mx.array(np.array(positions, dtype=np.int32))
        arrays[f"top_ids_{n}"] = mx.array(top.numpy().astype(np.int32))
        arrays[f"top_values_{n}"] = mx.array(values.numpy())
        if n == 0:
            arrays["row_0"] = mx.array(logits[-1].numpy())
    mx.save_safetensors(str(target / "golden.safetensors"), arrays)

    ids, margins = list(prompts[0]), []
    end = {tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id}
    answer = []
    with torch.no_grad():
        for _ in range(ANSWER_TOKENS):
            row = model(torch.tensor([ids])).logits[0, -1]
            first, second = row.topk(2).values.tolist()
            token = int(row.argmax())
            margins.append(first - second)
            answer.append(token)
            ids.append(token)
    stop = next((i for i, t in enumerate(answer) if t in end), len(answer))
    common.write_json(
        target / "answer.json",
        {"question": QUESTION, "prompt": prompts[0], "tokens": answer, "before_end": stop, "text": tokenizer.decode(answer[:stop])},
    )
    common.write_note(
        target,
        upstream=common.versions("torch", "transformers", "gguf"),
        dtype="float32",
        tolerance=2e-3,
        reason="the reference multiplies dequantised float32 weights; a reader that keeps 4-bit weights sums in another order",
        model="smollm2-135m-instruct, from the Python package " + common.MODELS["smollm2-135m-instruct"][0],
        weights_sha256=common.sha256(file),
        measured={"smallest_greedy_margin": round(min(margins), 4), "largest_logit": round(float(arrays["row_0"].max()), 2)},
    )


if __name__ == "__main__":
    common.run("Goldens of SmolLM2-135M-Instruct", generate)
