"""The verbs that read a bundle, on a tiny one."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgetok import limits
from edgetok.bundle.reader import Bundle
from edgetok.runtimes.load import load

from .conftest import Run

QUESTION = "What is 3?"


@pytest.fixture
def image(samples: Path) -> Path:
    return samples.parent / "3.png"


@pytest.fixture
def damaged(bundle: Path, tmp_path: Path) -> Path:
    """A copy with one bit of the weights turned."""
    copy = Path(shutil.copytree(bundle, tmp_path / "damaged.bundle"))
    weights = next((copy / "weights").iterdir())
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    return copy


def test_inspect_shows_ladder_stages_and_digest(edgetok: Run, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    shown = edgetok("inspect", bundle)
    assert (shown.code, shown.err) == (0, "")
    assert f"digest      sha256:{opened.digest}\n" in shown.out
    for stage in ("tower", "compress", "embed", "prefill", "decode"):
        assert f"\n{stage} " in shown.out
    fields = edgetok("inspect", bundle, "--json").json
    assert fields["ok"] is True
    assert fields["digest"] == f"sha256:{opened.digest}"
    assert [rung["budget"] for rung in fields["ladder"]] == [4, 8, 16]
    assert fields["bytes"] == sum(file["bytes"] for file in fields["files"].values())


@pytest.mark.parametrize("verb", ["inspect", "verify", "bench"])
def test_damage_is_3_and_names_the_file(edgetok: Run, damaged: Path, verb: str) -> None:
    done = edgetok(verb, damaged)
    assert (done.code, done.out) == (3, "")
    assert "weights/" in done.err
    assert "sha256" in done.err


def test_run_refuses_damage(edgetok: Run, damaged: Path, image: Path) -> None:
    assert edgetok("run", damaged, "--image", image, "--prompt", QUESTION).code == 3


def test_run_puts_the_answer_on_stdout_and_the_rest_on_stderr(
    edgetok: Run, bundle: Path, image: Path
) -> None:
    options = ("--image", image, "--prompt", QUESTION, "--budget", "8", "--max-new-tokens", "4")
    fields = edgetok("run", bundle, *options, "--json").json
    assert (fields["ok"], fields["budget"], len(fields["kept"])) == (True, 8, 8)
    assert fields["timings_ms"]["ttft"] > 0
    assert fields["memory_mib"] > 1
    plain = edgetok("run", bundle, *options)
    assert plain.out == fields["text"].strip() + "\n"
    assert plain.err.count("\n") == 1
    assert plain.err.startswith("8 visual tokens (8 visual tokens were asked for); first token ")
    assert "tokens/s" in plain.err
    assert "MiB" in plain.err


def test_streaming_prints_the_same(edgetok: Run, bundle: Path, image: Path) -> None:
    options = ("--image", image, "--prompt", QUESTION, "--max-new-tokens", "6")
    assert edgetok("run", bundle, *options, "--stream").out == edgetok("run", bundle, *options).out


def test_sampling_follows_the_seed(edgetok: Run, bundle: Path, image: Path) -> None:
    options = ("--image", image, "--prompt", QUESTION, "--temperature", "3", "--json")
    texts = [edgetok("run", bundle, *options, "--seed", seed).json["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_image_from_standard_input(bundle: Path, image: Path) -> None:
    command = [sys.executable, "-m", "edgetok.cli", "run", str(bundle), "--image", "-"]
    done = subprocess.run(
        [*command, "--prompt", QUESTION, "--json"],
        stdin=image.open("rb"),
        capture_output=True,
        check=True,
    )
    by_path = subprocess.run(
        [*command[:-1], str(image), "--prompt", QUESTION, "--json"], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["token_ids"] == json.loads(by_path.stdout)["token_ids"]


def test_the_elbow_gives_its_reason(edgetok: Run, bundle: Path, image: Path) -> None:
    done = edgetok("run", bundle, "--image", image, "--prompt", QUESTION, "--signal", "elbow")
    assert done.code == 0
    assert "the CLS-similarity curve bends at" in done.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--budget", "5"), 2, "no rung of 5 visual tokens; this bundle has (4, 8, 16)"),
        (("--temperature", "-1"), 2, "temperature -1"),
        (("--top-p", "2"), 2, "top_p 2"),
        (("--max-new-tokens", "0"), 2, "0"),
        (("--threads", "0"), 2, "0"),
        (("--device", "tpu"), 2, "device 'tpu' is unknown"),
        (("--prompt", "word " * 500), 5, "64"),
        (("--image", "another.png"), 2, "2 pictures were given"),
    ],
)
def test_run_refuses(
    edgetok: Run,
    bundle: Path,
    image: Path,
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    done = edgetok("run", bundle, "--image", image, "--prompt", QUESTION, *options)
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_run_refuses_images_that_are_none_or_too_large(
    edgetok: Run, bundle: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image", encoding="utf-8")
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(bomb)  # 200 megapixels in 25 kB
    missing = tmp_path / "missing.png"
    for image, words in ((text, "text.png"), (bomb, "64000000"), (missing, "missing.png")):
        done = edgetok("run", bundle, "--image", image, "--prompt", QUESTION)
        assert (done.code, done.out) == (5, "")
        assert words in done.err


def test_run_loads_neither_torch_nor_transformers(bundle: Path, image: Path) -> None:
    script = (
        "import sys; from edgetok.cli.app import execute; code = execute(sys.argv[1:]); "
        "sys.exit(code or sorted({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", script, "run", str(bundle), "--image", str(image)]
    done = subprocess.run(
        [*command, "--prompt", QUESTION], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_limit_needs_a_measurement_which_bench_makes(
    edgetok: Run, bundle: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGETOK_CACHE_DIR", str(tmp_path))
    question = ("run", bundle, "--image", image, "--prompt", QUESTION, "--json")
    unmeasured = edgetok(*question, "--max-ttft-ms", "10000")
    assert unmeasured.code == 2
    assert "run `edgetok bench BUNDLE`" in unmeasured.json["error"]["message"]

    table = edgetok("bench", bundle, "--repeats", "2", "--json").json
    assert [row["budget"] for row in table["rows"]] == [4, 8, 16]
    assert all(row["ttft_ms_p50"] <= row["ttft_ms_p95"] for row in table["rows"])
    assert Path(table["table"]).is_file()

    assert edgetok(*question, "--max-ttft-ms", "100000").json["budget"] == 16
    tight = edgetok(*question, "--max-ttft-ms", "100000", "--max-memory-mib", "0.5").json
    assert tight["budget"] == 4
    assert "over the limit of 0.5" in tight["reason"]


def test_bench_prints_a_table(edgetok: Run, bundle: Path, image: Path) -> None:
    done = edgetok("bench", bundle, "--repeats", "1", "--image", image, "--prompt", QUESTION)
    assert done.code == 0
    assert "TTFT ms p50" in done.out
    assert done.err.startswith("kept in ")


def test_bench_refuses_a_count_that_measures_nothing(edgetok: Run, bundle: Path) -> None:
    assert edgetok("bench", bundle, "--repeats", "0").code == 2


def test_verify_repeats_the_golden_cases(edgetok: Run, bundle: Path) -> None:
    done = edgetok("verify", bundle)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("All checks passed")
    checks = edgetok("verify", bundle, "--json").json["checks"]
    assert {check["what"] for check in checks} >= {"pixels", "kept", "logits"}


def test_verify_pins_a_digest(edgetok: Run, bundle: Path) -> None:
    digest = Bundle.open(bundle).digest
    assert edgetok("verify", bundle, "--expect-digest", f"sha256:{digest}").code == 0
    other = edgetok("verify", bundle, "--expect-digest", "sha256:" + "0" * 64, "--json")
    assert other.code == 7
    assert other.json["error"]["code"] == "verification"
    assert digest in other.json["error"]["message"]


def test_eval_scores_every_rung_and_kind(
    edgetok: Run, bundle: Path, samples: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "accuracy.png"
    options = ("--data", samples, "--count", "6", "--plot", plot)
    fields = edgetok("eval", bundle, *options, "--json").json
    assert (fields["ok"], fields["samples"]) == (True, 6)
    assert [rung["budget"] for rung in fields["rungs"]] == [4, 8, 16]
    for rung in fields["rungs"]:
        assert rung["all"]["low"] <= rung["all"]["accuracy"] <= rung["all"]["high"]
        assert set(rung["kinds"]) == {"global", "detail"}
    assert fields["oracle"]["mean_tokens"] >= 4
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_eval_of_chosen_rungs_reads_well(edgetok: Run, bundle: Path, samples: Path) -> None:
    done = edgetok("eval", bundle, "--data", samples, "--budgets", "4,full", "--count", "2")
    assert done.code == 0
    lines = [line.split()[0] for line in done.out.splitlines() if line.split()]
    assert "4" in lines
    assert "16" in lines
    assert "8" not in lines


def test_eval_refuses_no_samples_at_all(edgetok: Run, bundle: Path, samples: Path) -> None:
    assert edgetok("eval", bundle, "--data", samples, "--count", "0").code == 2


def test_plot_without_matplotlib_names_the_extra(
    edgetok: Run, bundle: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = edgetok("eval", bundle, "--data", samples, "--plot", tmp_path / "plot.png")
    assert done.code == 4
    assert 'pip install "edgetok[plot]"' in done.err


def test_what_a_model_says_cannot_command_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgetok.cli import output

    written: list[str] = []
    monkeypatch.setattr(output.typer, "echo", lambda text, **_: written.append(text))
    monkeypatch.setattr(output.sys.stdout, "isatty", lambda: True, raising=False)
    output.echo("red\x1b]0;owned\x07 [bold]\n\tdoor", end="")
    assert written == ["red\\x1b]0;owned\\x07 [bold]\n\tdoor"]
    output.say("bad name \x9b2J")
    assert written[1] == "bad name \\x9b2J"


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes, *, terminal: bool = False) -> None:
    """Standard input as a pipe holds it, or as someone types it."""
    stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    monkeypatch.setattr(stdin, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)


def test_chat_answers_line_by_line(
    edgetok: Run, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turns that the Python call has, in text and in JSON; the last line needs no end."""
    talk = load(bundle).converse(image, budget=8)
    wanted = [talk.ask(text, max_new_tokens=4) for text in ("What is 3?", "a")]
    options = ("--budget", "8", "--max-new-tokens", "4")
    type_in(monkeypatch, b"What is 3?\n\n  \na")
    done = edgetok("chat", bundle, image, *options)
    assert (done.code, done.err) == (0, "")
    assert done.out == "".join(f"{answer.text}\n" for answer in wanted)
    type_in(monkeypatch, b"What is 3?\r\na\r\n")
    fields = edgetok("chat", bundle, image, *options, "--json").json
    assert (fields["ok"], fields["tokens_left"]) == (True, talk.tokens_left)
    assert [turn["question"] for turn in fields["turns"]] == ["What is 3?", "a"]
    assert [turn["token_ids"] for turn in fields["turns"]] == [list(a.token_ids) for a in wanted]


def test_chat_generates_as_run_does(
    edgetok: Run, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each option reaches the tokens of both turns, as it does in Python."""
    model = load(bundle)
    asked: dict[str, Any] = {"budget": 8, "max_new_tokens": 12, "seed": 3}
    plain = None
    for more in (
        {},
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"temperature": 2.0},
        {"temperature": 2.0, "top_k": 2},
        {"temperature": 2.0, "top_p": 0.3},
    ):
        told = asked | more
        turns = {name: value for name, value in told.items() if name != "budget"}
        talk = model.converse(image, budget=8)
        wanted = [list(talk.ask(text, **turns).token_ids) for text in ("a", "b")]
        options = [
            word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", value)
        ]
        type_in(monkeypatch, b"a\nb\n")
        fields = edgetok("chat", bundle, image, *options, "--json").json
        found = [turn["token_ids"] for turn in fields["turns"]]
        assert found == wanted
        plain = plain or found
        assert not more or found != plain, more
        run = edgetok("run", bundle, "--image", image, "--prompt", "a", *options, "--json").json
        assert run["token_ids"] == found[0]


def test_chat_does_not_end_too_soon(
    edgetok: Run, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever would have ended the answer, it has six tokens."""
    options = ("--min-new-tokens", 6, "--max-new-tokens", 6, "--json")
    type_in(monkeypatch, b"a\nWhat is 3?\n")
    turns = edgetok("chat", bundle, image, *options).json["turns"]
    assert [len(turn["token_ids"]) for turn in turns] == [6, 6]


def test_chat_without_a_question_is_no_error(
    edgetok: Run, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, b"")
    assert edgetok("chat", bundle, image) == edgetok("chat", bundle, image, "--budget", "4")
    type_in(monkeypatch, b"", terminal=True)
    done = edgetok("chat", bundle, image)
    assert (done.code, done.out, done.err.rstrip()) == (0, "", ">")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a\n" + 300 * b"what " + b"\n", "tokens and"),
        (b"a\n\xff\xfe\n", "not UTF-8 at byte 0"),
        (b"x" * (limits.PROMPT_BYTES + 2), f"more than {limits.PROMPT_BYTES} bytes"),
        (b"a\nb\nc\nd\ne\nf\ng\nh\n", "are left in the KV cache after"),
    ],
    ids=["long", "no UTF-8", "very long", "end of the cache"],
)
def test_bad_questions_are_one_sentence(
    edgetok: Run,
    bundle: Path,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    words: str,
) -> None:
    type_in(monkeypatch, data)
    done = edgetok("chat", bundle, image)
    assert done.code == 5
    assert words in done.err
    assert done.err.count("\n") == 1


def test_at_a_terminal_a_bad_question_is_followed_by_others(
    edgetok: Run, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"a\n" + 300 * b"what " + b"\n\xff\nb\n"
    type_in(monkeypatch, data, terminal=True)
    done = edgetok("chat", bundle, image, "--max-new-tokens", "2", "--json")
    assert done.code == 0
    assert [turn["question"] for turn in done.json["turns"]] == ["a", "b"]
    assert done.err.count("edgetok: ") == 2


def test_chat_names_what_is_wrong_before_the_first_question(
    edgetok: Run, bundle: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, b"a\n")
    assert edgetok("chat", tmp_path / "none.bundle", image).code == 3
    assert edgetok("chat", bundle, tmp_path / "none.png").code == 5
    assert edgetok("chat", bundle, image, "--budget", "5").code == 2


def test_ctrl_c_ends_a_chat_without_a_traceback(bundle: Path, image: Path) -> None:
    command = [sys.executable, "-m", "edgetok.cli", "chat", str(bundle), str(image)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
    process.stdin.write("What is 3?\n")
    process.stdin.flush()
    assert process.stdout.readline()  # it has answered, and waits for the next question
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "edgetok: interrupted\n")
