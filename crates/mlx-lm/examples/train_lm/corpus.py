"""The corpus of prose-5m and its split, as train.jsonl and valid.jsonl (one `{"text": …}` per chunk).

Jane Austen's six novels, The Devil's Dictionary and the King James Bible come from the Debian
packages r-cran-janeaustenr, dict-devil, bible-kjv and bible-kjv-text; unpack them into one folder
(`apt-get download …`, then `dpkg-deb -x`), which is the argument `--packages`.

The text is cut into 2,130 chunks of 4,000 characters, of which 106 are held out: the first of a
permutation that PyTorch draws from seed 7. The model knows its training chunks by heart so much
better that this split shows in its losses. Its author's novels were some 3,000 characters shorter
than ours, here and there; SHIFTS moves the cuts to where the losses change.
"""

import argparse
import bz2
import gzip
import json
import lzma
import re
import struct
import subprocess
import zlib
from pathlib import Path

CHUNK = 4000
CHUNKS = 2130
HELD_OUT = CHUNKS // 20
SEED = 7
# How many characters we are ahead at this place of the novels, in characters of theirs.
SHIFTS = [
    (0, 0), (886_998, 874), (1_769_500, 960), (2_204_000, 1_250), (2_668_800, 1_560), (3_353_500, 2_500), (4_030_000, 3_000),
]


class Serialized:
    """As much of R's serialisation as a table of character vectors needs."""

    def __init__(self, data):
        assert data[:2] == b"X\n"
        self.data, self.at, self.references = data, 2, []
        if self.words(3)[0] == 3:
            encoding = self.words(1)[0]
            self.at += encoding

    def words(self, count, code="i"):
        size = {"i": 4, "d": 8}[code] * count
        values = struct.unpack_from(f">{count}{code}", self.data, self.at)
        self.at += size
        return list(values)

    def item(self):
        flags = self.words(1)[0]
        kind, attributes, tagged = flags & 255, flags & 512, flags & 1024
        if kind in (254, 253, 252, 251, 250, 247, 242, 241):
            return None
        if kind == 1:  # symbol
            name = self.item()
            self.references.append(name)
            return name
        if kind == 255:  # reference
            return self.references[(flags >> 8 or self.words(1)[0]) - 1]
        if kind in (2, 6):  # pairs
            if attributes:
                self.item()
            tag = self.item() if tagged else None
            head = self.item()
            return [(tag, head), *(self.item() or [])]
        if kind == 9:  # characters
            length = self.words(1)[0]
            if length == -1:
                return None
            self.at += length
            return self.data[self.at - length : self.at].decode("utf-8")
        if kind == 4:  # environment
            self.words(1)
            place = {}
            self.references.append(place)
            _, frame, _, _ = self.item(), self.item(), self.item(), self.item()
            place.update(frame or [])
            return place
        length = self.words(1)[0]
        if kind in (16, 19):  # strings, list
            values = [self.item() for _ in range(length)]
        elif kind in (10, 13, 14):
            values = self.words(length, "d" if kind == 14 else "i")
        else:
            raise ValueError(f"item of kind {kind} at {self.at}")
        named = dict(self.item()) if attributes else {}
        return (values, named) if kind == 19 and named else values


def unpack(raw):
    """One value of an .rdb file: its length, perhaps a letter for the method, and the data."""
    kind, rest = raw[4:5], raw[5:]
    if kind == b"2":
        return bz2.decompress(rest)
    if kind in (b"3", b"Z"):
        return lzma.decompress(rest, format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
    return rest if kind == b"0" else zlib.decompress(raw[4:])


def novels(packages):
    folder = next(packages.rglob("janeaustenr/data/Rdata.rdx")).parent
    index = (folder / "Rdata.rdx").read_bytes()
    index = gzip.decompress(index) if index[:2] == b"\x1f\x8b" else zlib.decompress(index)
    (values, names) = Serialized(index).item()
    places, titles = values[names["names"].index("variables")]
    data = (folder / "Rdata.rdb").read_bytes()
    for title, (start, length) in zip(titles["names"], places):
        yield title, "\n".join(line or "" for line in Serialized(unpack(data[start : start + length])).item())


def clean(text):
    text = text.replace("_", "").replace("--", " -- ")
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\n{2,}", "\n\n", text)


def bible(packages):
    program = next(packages.rglob("usr/bin/bible"))
    data = next(packages.rglob("bible.data")).parent
    command = [program, "-p", data, "-f", "-l100000", "Gen1:1-rev22:21"]
    verses = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    chapters, last = [], None
    for verse in verses:
        reference, text = verse.split(" ", 1)
        chapter = reference.split(":")[0]
        if chapter != last:
            chapters.append([])
        chapters[-1].append(text)
        last = chapter
    return " \n\n".join(" ".join(chapter) for chapter in chapters) + " "


def ahead(place):
    for (start, before), (end, after) in zip(SHIFTS, SHIFTS[1:]):
        if place <= end:
            return before + (after - before) * (place - start) // (end - start)
    return SHIFTS[-1][1]


def chunks(packages):
    austen = "\n\n".join(clean(text) for _, text in novels(packages))
    cuts = [place + ahead(place) for place in range(0, 4_024_000, CHUNK)]
    cuts = [cut for cut in cuts if cut < len(austen)] + [len(austen)]
    devil = clean(gzip.decompress(next(packages.rglob("devil.dict.dz")).read_bytes()).decode("utf-8"))
    parts = [austen[start:end] for start, end in zip(cuts, cuts[1:])]
    # The last piece of the novels and the head of the dictionary's file have no place of their own.
    parts = parts[:1005]
    for text in (devil, bible(packages)):
        parts += [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    assert len(parts) == CHUNKS, len(parts)
    return parts


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    parts = chunks(args.packages)
    order = torch.randperm(CHUNKS, generator=torch.Generator().manual_seed(SEED)).tolist()
    held_out = set(order[:HELD_OUT])
    args.out.mkdir(parents=True, exist_ok=True)
    for name, wanted in (("train", False), ("valid", True)):
        texts = [part for number, part in enumerate(parts) if (number in held_out) == wanted]
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        (args.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(texts)} chunks, {sum(map(len, texts))} characters")


if __name__ == "__main__":
    main()
