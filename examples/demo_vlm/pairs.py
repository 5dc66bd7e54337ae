"""Questions about two pictures shown one after the other."""

import numpy as np
from questions import Question, name_things
from scenes import ROLES, Scene

Generator = np.random.Generator
Pair = tuple[Scene, Scene]
NUMERALS = ("first", "second")
KIND = "pair"


def ask_pair(pair: Pair, rng: Generator) -> Question:
    """One question whose answer needs both pictures, or the right one of them."""
    forms = [ask_same_background, ask_more_shapes, ask_of_one, ask_which_has]
    for place in rng.permutation(len(forms)):
        options = forms[int(place)](pair)
        if options:
            return options[int(rng.integers(len(options)))]
    raise ValueError(f"no question fits the scenes {pair[0].seed} and {pair[1].seed}")


def ask_same_background(pair: Pair) -> list[Question]:
    """Whether the backgrounds are alike."""
    answer = "yes" if pair[0].background == pair[1].background else "no"
    return [Question("Do both images have the same background?", answer, KIND)]


def ask_more_shapes(pair: Pair) -> list[Question]:
    """Which picture has more shapes; nothing where they have as many."""
    counts = [len(scene.list_items("shape")) for scene in pair]
    if counts[0] == counts[1]:
        return []
    answer = NUMERALS[int(counts[1] > counts[0])]
    return [Question("Which image has more shapes, the first or the second?", answer, KIND)]


def ask_of_one(pair: Pair) -> list[Question]:
    """Background and printed text of either picture."""
    found = []
    for numeral, scene in zip(NUMERALS, pair, strict=True):
        prompt = f"What is the background of the {numeral} image?"
        found.append(Question(prompt, scene.background, KIND))
        for item in scene.list_items(*ROLES[2:]):
            prompt = f"What is the {item.role} of the {numeral} image?"
            found.append(Question(prompt, item.name, KIND))
    return found


def name_shapes(scene: Scene) -> set[str]:
    """Colours and names of all shapes, those that come twice too."""
    return {f"{item.colour} {item.name}" for item in scene.list_items("shape")}


def ask_which_has(pair: Pair) -> list[Question]:
    """Which picture shows a thing that the other does not."""
    names = [{name for name, _ in name_things(scene)} for scene in pair]
    things = [name_shapes(scene) for scene in pair]
    found = []
    for here, other in ((0, 1), (1, 0)):
        for name in sorted((names[here] & things[here]) - things[other]):
            prompt = f"Which image has a {name}, the first or the second?"
            found.append(Question(prompt, NUMERALS[here], KIND))
    return found
