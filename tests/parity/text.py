"""Tokenizers, streamed decoding and chat templates: what transformers makes of hostile text.

fixtures/text/:
  corpus.json      the strings that every tokenizer below encodes
  prose-5m.json    a tokenizer.json, fixtures/prose-5m
  smollm2.json     byte-level BPE from the metadata of a real GGUF file
  sentencepiece.json
                   SentencePiece BPE with byte fallback from GGUF metadata: a vocabulary of a few
                   hundred tokens, trained here, together with its encodings
  sentencepiece-<kind>.model, sentencepiece-files.json
                   SentencePiece's own files, with byte fallback and without, and its encodings
  templates.json   chat templates written for this test, conversations, and their rendering

Encodings are ids with a space between; `frame` is what special tokens put before each. `decode` holds sequences of random ids with their text, with
and without special tokens; most are not valid UTF-8.

transformers splits the text of a GGUF file whose `tokenizer.ggml.pre` is `smollm` as GPT-2 did.
SmolLM2's own tokenizer.json, and llama.cpp, isolate each digit first. The two differ where whitespace
stands before a digit, so `ids` come from the reading with the model's own splitting, and `as_gpt2`
lists, by position in the corpus, what transformers gives when left alone.
"""

import json
import random
import tempfile
import unicodedata
from pathlib import Path

import common
import gguf
import sentencepiece
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import text_chats
import text_corpus

DECODED = 120


def write(path, value):
    """One entry per line: small, and readable in a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for key, entry in value.items():
        if isinstance(entry, list):
            items = ",\n".join(json.dumps(item, ensure_ascii=False) for item in entry)
            lines.append(f"{json.dumps(key)}: [\n{items}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(entry, ensure_ascii=False)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def joined(ids):
    return " ".join(map(str, ids))


def encodings(tokenizer, corpus, seed, always=()):
    """Ids without special tokens, what the special frame puts before them, and random ids decoded."""
    plain = [joined(tokenizer.encode(text, add_special_tokens=False)) for text in corpus]
    framed = [joined(tokenizer.encode(text, add_special_tokens=True)) for text in corpus]
    chance = random.Random(seed)
    size = len(tokenizer)
    decode = []
    for _ in range(DECODED):
        ids = [
            chance.choice(always) if always and chance.random() < 0.5 else chance.randrange(size)
            for _ in range(chance.randint(1, 24))
        ]
        decode.append([joined(ids), tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(ids)])
    golden = {"ids": plain}
    golden["frame"] = framed[corpus.index("")]
    assert framed == [f"{golden['frame']} {ids}".strip() for ids in plain]
    golden["decode"] = decode
    return golden


def smollm2(corpus):
    folder = common.model_folder("smollm2-135m-instruct")
    file = next(folder.glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    as_gpt2 = [joined(tokenizer.encode(text)) for text in corpus]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # Tokens of single bytes above ASCII, to make sequences that are not UTF-8.
    vocab = tokenizer.get_vocab()
    high = sorted(vocab[character] for character in vocab if len(character) == 1 and ord(character) > 0xA0)
    golden = encodings(tokenizer, corpus, 2, high)
    golden["as_gpt2"] = [[n, ids] for n, ids in enumerate(as_gpt2) if ids != golden["ids"][n]]
    for n, _ in golden["as_gpt2"]:
        blank_then_digit = any(
            before.isspace() and unicodedata.category(after).startswith("N")
            for before, after in zip(corpus[n], corpus[n][1:])
        )
        assert blank_then_digit, corpus[n]
    return {"weights_sha256": common.sha256(file), **golden}


def sentencepiece_vocab(corpus, scratch):
    """Trains a small vocabulary and writes it as a GGUF file of metadata only."""
    text = scratch / "text.txt"
    # Only Western letters are learnt; everything else falls back to bytes.
    western = [line for line in corpus if line.isprintable() and all(character < "\u0250" for character in line)]
    text.write_text("\n".join([*text_corpus.PROSE.splitlines(), *western]), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(scratch / "spm"),
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        control_symbols=["<|turn|>"],
        user_defined_symbols=["<tool>", "\u2581\u2581"],
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(scratch / "spm.model"))
    size = model.vocab_size()

    def kind(n):
        if model.is_unknown(n):
            return gguf.TokenType.UNKNOWN
        if model.is_control(n):
            return gguf.TokenType.CONTROL
        if model.is_byte(n):
            return gguf.TokenType.BYTE
        return gguf.TokenType.USER_DEFINED if model.id_to_piece(n) == "<tool>" else gguf.TokenType.NORMAL

    vocab = {
        "model": "llama",
        "tokens": [model.id_to_piece(n) for n in range(size)],
        "scores": [model.get_score(n) for n in range(size)],
        "token_types": [int(kind(n)) for n in range(size)],
        "bos": model.bos_id(),
        "eos": model.eos_id(),
        "unk": model.unk_id(),
    }
    file = scratch / "spm.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(vocab["model"])
    writer.add_token_list(vocab["tokens"])
    writer.add_token_scores(vocab["scores"])
    writer.add_token_types(vocab["token_types"])
    writer.add_bos_token_id(vocab["bos"])
    writer.add_eos_token_id(vocab["eos"])
    writer.add_unk_token_id(vocab["unk"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return vocab, file


def sentencepiece_golden(corpus):
    with tempfile.TemporaryDirectory() as scratch:
        vocab, file = sentencepiece_vocab(corpus, Path(scratch))
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=file.name)
        bytes_ = [n for n, kind in enumerate(vocab["token_types"]) if kind == int(gguf.TokenType.BYTE)]
        return {**vocab, **encodings(tokenizer, corpus, 3, bytes_)}


def sentencepiece_files(corpus, target):
    """Two small models in SentencePiece's own format."""
    western = [line for line in corpus if line.isprintable() and all(character < "\u0250" for character in line)]
    golden = {}
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "text.txt"
        text.write_text("\n".join([*text_corpus.PROSE.splitlines(), *western]), encoding="utf-8")
        rule = Path(scratch) / "rule.tsv"
        # Full-width A and B, and the ligature fi, are written out.
        rule.write_text("FF21\t41\nFF22\t42\nFB01\t66 69\n", encoding="utf-8")
        for kind, options in {
            "bpe": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
                    "remove_extra_whitespaces": False, "split_digits": True},
            "unigram": {"model_type": "unigram", "normalization_rule_tsv": str(rule)},
        }.items():
            sentencepiece.SentencePieceTrainer.train(
                input=str(text), model_prefix=str(Path(scratch) / kind), vocab_size=600,
                character_coverage=0.98, hard_vocab_limit=False, minloglevel=2, num_threads=1, **options,
            )
            file = Path(scratch) / f"{kind}.model"
            (target / f"sentencepiece-{kind}.model").write_bytes(file.read_bytes())
            model = sentencepiece.SentencePieceProcessor(model_file=str(file))
            golden[kind] = []
            for line in corpus:
                ids = model.encode(line)
                golden[kind].append([joined(ids), model.decode(ids)])
    return golden


def templates():
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(Path(__file__).parent.parent / "fixtures/prose-5m"))
    tokenizer.bos_token = "<s>"
    rendered = []
    for name, source in text_chats.TEMPLATES.items():
        tokenizer.chat_template = source
        chats = text_chats.CONVERSATIONS[: 1 if name in text_chats.ONCE else None]
        for n, chat in enumerate(chats):
            try:
                text = tokenizer.apply_chat_template(chat["messages"], tokenize=False, **chat.get("options", {}))
                rendered.append([name, n, text])
            except Exception as error:  # What a template refuses is part of the golden.
                rendered.append([name, n, None, str(error)])
    return {"templates": text_chats.TEMPLATES, "conversations": text_chats.CONVERSATIONS, "rendered": rendered}


def generate(out, args):
    target = out / "text"
    corpus = text_corpus.make()
    write(target / "corpus.json", {"texts": corpus})
    prose = PreTrainedTokenizerFast.from_pretrained(str(args.fixtures / "prose-5m"))
    write(target / "prose-5m.json", encodings(prose, corpus, 1))
    write(target / "smollm2.json", smollm2(corpus))
    write(target / "sentencepiece.json", sentencepiece_golden(corpus))
    write(target / "sentencepiece-files.json", sentencepiece_files(corpus, target))
    write(target / "templates.json", templates())


if __name__ == "__main__":
    common.run("Goldens of the text side", generate)
