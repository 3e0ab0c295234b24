"""Hostile strings: everything that has made a tokenizer stumble, and seeded random mixtures of it."""

import random

PROSE = """The old lighthouse keeper counted ships, as he had done every evening for forty years.
"Is that you?" she asked; nobody answered. It wasn't the wind, and it couldn't have been the cat.
In 1887 the harbour froze, and 3,500 people walked across the ice - some say 12 of them never came back.
They'd been told that the well was dry. They'll see for themselves that it isn't, won't they?
def area(width, height): return width * height  # what the boy wrote on the wall
A table, two chairs, a lamp: that was all. The rest had been sold, given away or lost at sea.
When the snow melted in the spring, the children found a box of letters under the bridge.
Nothing happens here, she wrote, and yet the days are full. The bread rises; the river rises."""

WRITTEN = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\t\t ", " \n \n ", "\u00a0", "\u3000", "\u2028\u2029", "\x0b\x0c",
    "\x00", "\x00\x01\x02\x1b[31m", "\x7f\x80\x9f", "\x1c\x1d\x1e\x1f", "\ufeff", "\ufeffBOM", "\ufffd", "\ufffe\uffff", "\U0010ffff",
    "\u200b", "a\u200bb", "a\u200d\u200cb", "\u202eabc\u202c", "\u2066x\u2069", "\u00ad", "\u2060",
    "Hello, world!", " Hello", "Hello ", "  Hello  World  ", "HELLO", "hElLo", "don't", "DON'T", "I'll've", "'s's's", "it's 's", "''''",
    "we'Re they'RE", "\u2019s don\u2019t", "rock'n'roll", "'twas", "l'été d'aujourd'hui",
    "1", "12", "123", "1234567890", "3.14159", "1,000,000", "-1e-10", "0x1F", "1 2 3", "1  2", "a  1", "x   22", "\n\n1. one\n2. two\n\n10. ten",
    "\t1\t2", "  1", "\u00a01", "v1.2.3-rc4", "2024-02-29T23:59:60Z", "+49 (0)30 123456", "١٢٣ ٤٥٦", "१२३", "①②③", "Ⅷ Ⅻ", "½ ¾ ⅒", "x² y₃", "𝟏𝟐𝟑",
    "fn main() {\n    println!(\"{}\", 1 << 4);\n}\n", "def f(x):\n\treturn x**2  # 2 spaces\n", "<html>\n  <p class=\"a\">x &amp; y</p>\n</html>",
    "SELECT * FROM t WHERE a != 'b''c';", "{\"a\": [1, 2.5, null, true], \"b\": {\"c\": \"\\u00e9\"}}", "a=b&c=d%20e", "C:\\Users\\x", "/usr/bin/env -S",
    "https://example.org/a_b?c=d#e", "user@example.org", "#hashtag @mention $100 50% ^caret ~tilde `tick`", "!!!???...", "------", "======", "______", "*****",
    "....", "…", "—–-", "«quoted» „so“ “or” ‘so’", "¿Qué? ¡Sí!", "\\n\\t\\\\", "\\x41", "{{ x }}{% y %}{# z #}", "%s %d %%", "${var} $(cmd) `cmd`",
    "Zażółć gęślą jaźń", "naïve façade Straße", "ẞ ß ŒŒ œ", "İstanbul ıI", "ﬁ ﬂ ﬃ", "Å Å A\u030a", "e\u0301 é", "n\u0303\u0303\u0303", "\u0301abc", "Z̸̧̢͚͉͗̔a̶̛͇l̴͙͝g̵̞͗o̷͓̓",
    "Привет, мир!", "Ελληνικά γράμματα", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "안녕하세요 세계", "\u1112\u1161\u11ab", "こんにちは世界", "你好，世界！", "中文English混排123",
    "ｆｕｌｌｗｉｄｔｈ １２３", "ｱｲｳｴｵ", "々〆ヶ", "𠮷野家", "𝓗𝓮𝓵𝓵𝓸", "🅗🅔🅛🅛🅞", "ᚠᚢᚦᚨᚱᚲ", "𓀀𓀁", "\U0001f1fa\U0001f1f3\U0001f1ea", "👩‍👩‍👧‍👦", "👍🏽", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "😀", "😀😀😀", "a😀b", "😀 😀", "☃️", "✔︎", "🦀 Rust", "\ue000\uf8ff", "\U000f0000",
    "<s>", "</s>", "<s>a", "a<s>", "<s><s>a", "<unk>", "<pad>", "<0x0A>", "<0x41>", "<0xFF>", "<0xZZ>", "▁", "▁▁", "▁a", "a▁b", " ▁ ", "Ġ", "Ċ", "Ġthe", "Ã©",
    "<|endoftext|>", "<|endoftext|><|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext", "|endoftext|>", "<|ENDOFTEXT|>", "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|>", "<|im_end|>", "<|im_start|><|im_end|>", "<|im_start|> <|im_end|>", "<|im_<|im_start|>start|>", "<|turn|>x<|turn|>", "<tool>", "a <tool> b", "<tool>  <tool>", "<jupyter_start>", "<repo_name>x",
    "a" * 300, "ab" * 200, " " * 100, "\n" * 40, "\t" * 30, "é" * 100, "漢" * 80, "😀" * 40, "1" * 120, "!" * 80, "'" * 50, "▁" * 40, "x " * 100, " 1" * 60, "aA1 é!" * 30,
    "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaftskapitän", "pneumonoultramicroscopicsilicovolcanoconiosis",
    "camelCaseWordsAndHTTPServer", "snake_case_words", "kebab-case-words", "SCREAMING_SNAKE", "MiXeD123cAsE456", "a1b2c3", "H2O CO2 C6H12O6", "x+y=z", "f(g(h(x)))", "[[[[]]]]", "<<<>>>",
]

POOLS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " ", "   \t\n", "\r\n\u00a0\u2003\u3000", ".,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`",
    "äöüßéèêñçåøæœ", "ąęłżźćńś", "абвгдежзийклмноп", "αβγδεζηθικλμν", "אבגדהוזחט", "ابتثجحخدذر", "अआइईउऊकखगघ\u093e\u0947\u094d", "กขคงจฉช\u0e31\u0e48", "가나다라마바사", "あいうえおアイウエオ", "漢字日本語中文简体",
    "\u0300\u0301\u0308\u0327\u20dd", "\u200b\u200c\u200d\u2060\ufeff\u00ad", "😀🦀👍🏽👩🇫🇷☃\ufe0f", "𝒜𝟘𐍈𠀀", "\x00\x01\x08\x1b\x1f\x7f\x85", "①½²Ⅷ٣३", "▁ĠĊÃ",
]
WORDS = PROSE.split() + ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<tool>", "<|turn|>", "<0x0A>", "'s", "'LL", "\n\n", "  ", "7", "42"]


def make(count=560):
    """The written strings and random ones, `count` in all, none twice."""
    chance = random.Random(20240229)
    texts = list(dict.fromkeys(WRITTEN))
    seen = set(texts)
    while len(texts) < count:
        if chance.random() < 0.4:
            text = "".join(chance.choice(WORDS) + chance.choice(["", " ", " ", "  ", "\n"]) for _ in range(chance.randint(1, 8)))
        else:
            pools = chance.sample(POOLS, chance.randint(1, 4))
            text = "".join(chance.choice(chance.choice(pools)) for _ in range(chance.randint(1, 28)))
        if text not in seen:
            seen.add(text)
            texts.append(text)
    return texts
