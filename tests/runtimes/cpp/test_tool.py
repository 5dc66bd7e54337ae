"""The tool says what is wrong in one line, with the status as its exit code."""

from __future__ import annotations

import subprocess

import pytest


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "usage: "),
        (("inspect",), 2, "usage: "),
        (("inspect", "no-such.bundle"), 3, "no such directory"),
        (("measure", "BUNDLE", "PICTURE", "1", "2", "many"), 2, "many is no whole number"),
        (
            ("measure", "BUNDLE", "BUNDLE/manifest.json", "1", "2", "1"),
            5,
            "no file that can be read",
        ),
        (("measure", "BUNDLE", "PICTURE", "1", "999999", "1"), 5, "outside the vocabulary"),
        (("measure", "BUNDLE", "PICTURE", "1", "2", "1", "5"), 2, "no rung of 5"),
        (("ask", "BUNDLE", "PICTURE", "Hi", "--text-library", "/none.so"), 4, "/none.so"),
        (("ask", "BUNDLE", "PICTURE", "Hi", "--top-k"), 2, "usage: "),
        (("ask", "BUNDLE", "PICTURE", "Hi", "--top-k", "-1"), 2, "-1 is negative; 0 is none"),
        (("ask", "BUNDLE", "PICTURE", "Hi", "--temperature", "hot"), 2, "hot is no number"),
        (("ask", "BUNDLE", "PICTURE", "Hi", "--repetition-penalty", "0"), 2, "is not above 0"),
        (("ask", "BUNDLE", "PICTURE", "Hi", "--seed", "-1"), 2, "-1 is no whole number from 0 on"),
        (("ask", "BUNDLE", "PICTURE", "Hi", "--beams", "4"), 2, "there is no option --beams"),
    ],
    ids=str,
)
def test_wrong_words(build, asked, words, code, message):
    known = {"BUNDLE": str(asked.bundle), "PICTURE": str(asked.picture)}
    given = [word.replace("BUNDLE", known["BUNDLE"]) for word in words]
    given = [known.get(word, word) for word in given]
    done = subprocess.run(
        [build / "edgetok-cpp", *given], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert not done.stdout
    if not message.startswith("usage"):
        assert len(done.stderr.splitlines()) == 1
