"""The demo's scenes, questions and splits: the same each time, and true to the picture."""

import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "demo_vlm"
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def demo() -> Iterator[dict[str, ModuleType]]:
    """The example's modules, imported as its scripts import each other."""
    sys.path.insert(0, str(FOLDER))
    try:
        import glyphs
        import make
        import pairs
        import questions
        import scenes
        import sheets
        import splits
        import targets
        import vocabulary

        modules = [glyphs, make, pairs, questions, scenes, sheets, splits, targets, vocabulary]
        yield {module.__name__: module for module in modules}
    finally:
        sys.path.remove(str(FOLDER))


EVALUATE_START = 101_000_000


def test_same_seed_gives_same_bytes(demo, tmp_path):
    for name in ("one", "two"):
        demo["make"].write_samples(tmp_path / name, "evaluate", 20, 4)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_samples_have_the_four_keys_and_balanced_kinds(demo, tmp_path):
    demo["make"].write_samples(tmp_path, "calibrate", 100, 4)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 100
    assert {tuple(row) for row in rows} == {("image", "prompt", "answer", "kind")}
    assert all((tmp_path / row["image"]).is_file() for row in rows)
    counts = Counter(row["kind"] for row in rows)
    assert set(counts) == set(demo["vocabulary"].KINDS)
    assert min(counts.values()) >= 15


def test_conversations_ask_each_image_many_different_questions(demo, tmp_path):
    assert demo["make"].write_conversations(tmp_path, "evaluate", 6) == 6
    rows = [json.loads(line) for line in (tmp_path / "conversations.jsonl").open()]
    for row in rows:
        prompts = [turn["prompt"] for turn in row["turns"]]
        assert (tmp_path / row["image"]).is_file()
        assert 10 <= len(set(prompts)) == len(prompts) <= 20


def test_pairs_ask_what_their_two_scenes_answer(demo, tmp_path):
    """Recounts the answers from the scenes by rules of the test's own."""
    assert demo["make"].write_pairs(tmp_path, "evaluate", 60) == 120
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").open()]
    checked = Counter()
    for row in rows:
        scenes = [demo["scenes"].draw_scene(int(Path(name).stem)) for name in row["images"]]
        shapes = [[i for i in scene.items if i.role == "shape"] for scene in scenes]
        words = row["prompt"].rstrip("?").replace(",", "").split()
        if words[0] == "Do":
            assert (scenes[0].background == scenes[1].background) == (row["answer"] == "yes")
        elif words[:4] == ["Which", "image", "has", "more"]:
            more = len(shapes[0]) > len(shapes[1])
            assert row["answer"] == ("first" if more else "second")
        elif words[:3] == ["Which", "image", "has"]:
            has = [any([i.colour, i.name] == words[4:6] for i in found) for found in shapes]
            assert has == [row["answer"] == "first", row["answer"] == "second"]
        else:
            scene = scenes[words[-2] == "second"]
            names = {item.role: item.name for item in scene.items}
            assert row["answer"] == {**names, "background": scene.background}[" ".join(words[3:-4])]
        checked[words[0]] += 1
    assert set(checked) == {"Do", "Which", "What"}


def test_anchor_is_one_patch_per_item(demo):
    targets, scenes = demo["targets"], demo["scenes"]
    scene = scenes.draw_scene(5)
    anchors = targets.describe_points(scene)[..., targets.FIELD_PLACES["anchor"]].any(-1)
    wanted = {targets.find_anchor(item) for item in scene.list_items("shape")}
    assert wanted <= {tuple(place) for place in np.argwhere(anchors).tolist()}
    assert anchors.sum() <= len(scene.items)


def test_splits_are_disjoint_and_reserved_stays_closed(demo):
    ranges = sorted(demo["splits"].SPLITS.values(), key=lambda seeds: seeds.start)
    for earlier, later in itertools.pairwise(ranges):
        assert earlier.stop <= later.start
    with pytest.raises(ValueError, match="reserved"):
        demo["splits"].open_split("reserved")
    with pytest.raises(ValueError, match="no split"):
        demo["scenes"].draw_scene(10**12)


def test_evaluation_handwriting_is_never_seen_in_training(demo):
    glyphs = demo["glyphs"]
    images, _, boundary = glyphs.load_handwriting()
    training = {i for d in range(10) for i in glyphs.list_handwriting(d, evaluation=False)}
    evaluation = {i for d in range(10) for i in glyphs.list_handwriting(d, evaluation=True)}
    assert max(training) < boundary <= min(evaluation)
    assert len(training) + len(evaluation) == len(images)
    assert not {images[i].tobytes() for i in training} & {images[i].tobytes() for i in evaluation}


def test_scene_takes_its_handwriting_from_its_splits_part(demo, monkeypatch):
    scenes = demo["scenes"]
    asked = []
    real = scenes.list_handwriting

    def record(digit, evaluation):
        asked.append(evaluation)
        return real(digit, evaluation)

    monkeypatch.setattr(scenes, "list_handwriting", record)
    for seed in range(4):
        scenes.draw_scene(seed)
    assert asked and not any(asked)
    asked.clear()
    for seed in range(EVALUATE_START, EVALUATE_START + 4):
        scenes.draw_scene(seed)
    assert asked and all(asked)


@pytest.mark.parametrize("sheet", [False, True])
def test_items_do_not_overlap_and_stay_inside(demo, sheet):
    side = demo["vocabulary"].IMAGE_SIDE_PX
    for seed in range(12):
        draw = demo["sheets"].draw_sheet if sheet else demo["scenes"].draw_scene
        items = draw(seed).items
        painted = np.zeros((side, side), dtype=int)
        for item in items:
            left, top, right, bottom = item.box
            assert 0 <= left < right <= side and 0 <= top < bottom <= side
            painted[top:bottom, left:right] += 1
        assert painted.max() == 1


def test_answers_follow_from_the_scene(demo):
    """Recounts answers from the items by rules of the test's own."""
    checked = Counter()
    for scene, questions in demo["make"].make_samples("evaluate", 400, 8):
        shapes = [item for item in scene.items if item.role == "shape"]
        texts = {item.role: item.name for item in scene.items}
        for question in questions:
            words = question.prompt.rstrip("?.").split()
            if question.kind == "reading":
                assert (
                    question.answer
                    == texts[" ".join(words[-3:-1]) if words[-1] == "say" else " ".join(words[-2:])]
                )
            elif "shapes are there" in question.prompt and words[2] == "shapes":
                assert question.answer == str(len(shapes))
            elif question.prompt.startswith("What colour is the") and len(words) == 5:
                colours = [item.colour for item in shapes if item.name == words[-1]]
                assert colours == [question.answer]
            elif "left or right" in question.prompt:
                middles = [find_middle(scene, part) for part in split_relation(question.prompt)]
                assert question.answer == ("left" if middles[0] < middles[1] else "right")
            else:
                continue
            checked[question.kind] += 1
    assert set(checked) == {"reading", "global", "attribute", "place"}


def split_relation(prompt):
    thing, other = prompt.rstrip("?").split(" left or right of the ")
    return thing.removeprefix("Is the "), other


def find_middle(scene, name):
    boxes = [item.box for item in scene.items if name in (item.role, f"{item.colour} {item.name}")]
    assert len(boxes) == 1
    return (boxes[0][0] + boxes[0][2]) / 2


def test_no_prompt_of_an_image_is_asked_twice(demo):
    for _, questions in demo["make"].make_samples("calibrate", 200, 10):
        prompts = [question.prompt for question in questions]
        assert len(set(prompts)) == len(prompts)


def test_blind_guess_is_weak(demo):
    """Always giving the commonest answer to a prompt's form gets few right."""
    by_form = {}
    for _, questions in demo["make"].make_samples("calibrate", 2000, 4):
        for question in questions:
            form = (question.kind, question.prompt.split()[0:3][0], len(question.prompt.split()))
            by_form.setdefault(form, Counter())[question.answer] += 1
    right = sum(answers.most_common(1)[0][1] for answers in by_form.values())
    assert right / 2000 < 0.35


def test_patch_targets_name_what_is_drawn(demo):
    targets, scenes = demo["targets"], demo["scenes"]
    scene = next(
        scene for scene in map(scenes.draw_scene, range(50)) if scene.list_items("big word")
    )
    word = scene.list_items("big word")[0]
    described = targets.describe_points(scene)
    role = scenes.ROLES.index("big word") + 1
    points = described[described[..., 3] == role]
    characters = demo["vocabulary"].CHARACTERS
    spelled = {}
    for what, colour, order, *_ in points:
        spelled.setdefault(order, characters[what - targets.FIRST_CHARACTER])
        assert colour == demo["vocabulary"].COLOUR_NAMES.index(word.colour) + 1
    assert "".join(spelled[order] for order in sorted(spelled)) == word.name


def test_window_hides_the_order_of_strings_that_begin_outside(demo):
    targets = demo["targets"]
    scene = demo["scenes"].draw_scene(1)
    described = targets.describe_points(scene)
    labels = targets.hide_cut_strings(described[:, 12:], 96)
    begins_outside = (described[:, 12:, :, 2] > 0) & (described[:, 12:, :, -1] < 96)
    assert (labels[..., 2][begins_outside] == targets.IGNORED).all()
    assert (labels[..., 2][~begins_outside] >= 0).all()


LOCKED = ("matplotlib", "numpy", "pillow", "scikit-learn")
BYTES_SHA256 = "9706e226aafd0cf49e01b048b7ca25904765cdc18e5fd1c57dc8c5dbe10b510c"
"""Of the 20 questions below with their pictures, drawn with the versions of constraints/."""


def test_bytes_are_those_of_the_locked_versions(demo, tmp_path):
    lines = (FOLDER.parents[1] / "constraints" / "direct.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    other = [name for name in LOCKED if version(name) != locked[name]]
    if other:
        pytest.skip(f"other versions than the locked ones are installed of {', '.join(other)}")
    demo["make"].write_samples(tmp_path, "evaluate", 20, 4)
    digest = hashlib.sha256()
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        digest.update(file.relative_to(tmp_path).as_posix().encode() + file.read_bytes())
    assert digest.hexdigest() == BYTES_SHA256
