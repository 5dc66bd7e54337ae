"""Tokenizers of the kinds that published models have, trained on a page of many scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "What is on the left of the sign? It's 12:30, they've said; I'll wait. DON'T PANIC!",
    "Was steht links auf dem Schild? Größere Häuser, süße Äpfel und ein Straßenschild.",
    "Qu'est-ce qu'il y a à gauche de l'œuvre ? Déjà vu, garçon — où êtes-vous né ?",
    "Τι γράφει η πινακίδα αριστερά; Ένα σπίτι με κόκκινη πόρτα και δύο παράθυρα.",
    "Что написано на знаке слева? Три кошки сидят у окна, а четвёртая спит.",
    "ما المكتوب على اللافتة اليسرى؟ في الصورة ثلاث قِطَط و١٢٣ سيّارة.",
    "מה כתוב על השלט משמאל? בתמונה יש שָׁלוֹשׁ חתולות ו־42 ציפורים.",
    "बाईं ओर के चिह्न पर क्या लिखा है? चित्र में तीन बिल्लियाँ हैं और १२ फूल।",
    "ป้ายทางซ้ายเขียนว่าอะไร มีแมวสามตัวอยู่บนเก้าอี้ ๔๒",
    "左边的牌子上写着什么？图片里有三只猫，十二朵花。",
    "左の看板には何と書いてありますか？写真には猫が三匹、ｶﾀｶﾅもあります。",
    "왼쪽 표지판에 뭐라고 적혀 있나요? 사진에는 고양이가 세 마리 있습니다.",
    "👩‍👩‍👧‍👦 waves at 🏳️‍🌈, 👍🏽 and 🇩🇪🇫🇷! e\u0301 n\u0303 o\u0308 Å A\u030a \u1e9b\u0323 ﬁ ½ Ⅷ ²",
    "\u202eright to left\u202c and \u200fשלום\u200e, zero\u200bwidth, soft\u00adhyphen",
    'for (int i = 0; i < 10; ++i) {\n\tprintf("%d\\n", a[i]);  // 3.14e-5\n}\n\n\n\treturn 0;\r\n',
    "spaces  two   three        eight \t tab\t\ttabs \n newline\n\n\r\n\u3000wide",
    "an \u2003em, a\u2028line, no\u00a0break",
    "1234567890 3.14159 1,000,000 0x1F 2024-11-21 ٣٤٥ ४५६ Ⅻ ⅓ 10^6 50% $99.99 #42",
    "https://example.org/a/b?c=d&e=f#g user_name@example.com C:\\path\\to\\file __init__ camelCase",
]
QUESTIONS = [
    "", " ", "  ", "\n", "a", " a", "a ", "?", "'s", " 's", "\t\tx", "x\r\ny", "日本", "\u0301",
    "é", "e\u0301", "\u00a0", "\u2028", "\u3000", "\x85", "\x1c", "\x7f", "\ufffd", "\ufeffbom",
    "🙂", "🇩🇪", "▁", "▁a ▁", "Ġ", "ĠaĊ", "<image>", "<|end|>", "<s>", "</s>", "<0x41>",
    "<pad><|start|>", "<tool>", "a<tool>b", "<tool><tool>", "<to", "aaaaaaaaaaaaaaaaaaaa",
    "ab" * 30, "你好" * 20, " " * 30, "\n" * 20, "x" + " " * 17 + "y", "...!!!???",
]  # fmt: skip
SPECIAL = ("<image>", "<|end|>", "<|start|>", "<pad>")
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")


def _train_bytes(split: Any, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def isolate(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(regex: bool = True) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def gpt2() -> Tokenizer:
    tokenizer = _train_bytes(byte_level())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def qwen2() -> Tokenizer:
    split = pre_tokenizers.Sequence([isolate(QWEN), byte_level(False)])
    tokenizer = _train_bytes(split, normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def llama3() -> Tokenizer:
    tokenizer = _train_bytes(pre_tokenizers.Sequence([isolate(LLAMA3), byte_level(False)]))
    description = json.loads(tokenizer.to_str())
    description["model"]["ignore_merges"] = True
    longest = max(description["model"]["vocab"], key=len)  # a word that the merges do not make
    description["model"]["merges"] = [
        pair for pair in description["model"]["merges"] if "".join(pair) != longest
    ]
    tokenizer = Tokenizer.from_str(json.dumps(description))
    both = [
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing("<pad> $A", special_tokens=[("<pad>", 3)]),
    ]
    tokenizer.post_processor = processors.Sequence(both)
    return tokenizer


def smollm() -> Tokenizer:
    split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()])
    tokenizer = _train_bytes(split)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=True), AddedToken("<tool><tool>")])
    return tokenizer


def unreached() -> Tokenizer:
    """Words in the vocabulary that no merges make."""
    description = json.loads(_train_bytes(byte_level()).to_str())
    vocabulary = description["model"]["vocab"]
    made = {"".join(pair) for pair in description["model"]["merges"]}
    for word in {"Ġcat", "What's", "aaaa", "?!"} - made:
        vocabulary[word] = len(vocabulary) + 100
    return Tokenizer.from_str(json.dumps(description))


def _train_words(normalizer: Any, split: Any, strip: bool) -> Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=900, min_frequency=2, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    # What occurs once is no token, so that there is something to fall back from.
    rare = {c for c in "".join(CORPUS) if "".join(CORPUS).count(c) == 1}
    learnt = sorted(model["vocab"], key=model["vocab"].get)
    learnt = [token for token in learnt if not rare.intersection(token)]
    merges = [(a, b) for a, b in map(tuple, model["merges"]) if a + b in learnt]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: index for index, name in enumerate(dict.fromkeys(names))},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if split is not None:
        tokenizer.pre_tokenizer = split
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *SPECIAL])
    return tokenizer


def llama2() -> Tokenizer:
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _train_words(normalizer, None, strip=True)


def vicuna() -> Tokenizer:
    split = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _train_words(None, split, strip=True)


def words() -> Tokenizer:
    split = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer = _train_words(None, split, strip=True)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def gemma() -> Tokenizer:
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer = _train_words(normalizers.Replace(" ", "▁"), split, strip=False)
    tokenizer.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(2, 6)])
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    made.__name__: made
    for made in (gpt2, qwen2, llama3, smollm, unreached, llama2, vicuna, words, gemma)
}


@cache
def make(kind: str) -> bytes:
    """The `tokenizer.json` of this kind."""
    return KINDS[kind]().to_str().encode()
