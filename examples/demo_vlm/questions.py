"""Questions about a scene, each with the one short answer that the scene's record gives."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scenes import ROLES, Item, Scene
from vocabulary import (
    BACKGROUNDS,
    COLOUR_NAMES,
    DARK_COLOURS,
    IMAGE_SIDE_PX,
    KINDS,
    NUMBER_NAMES,
    PLACES,
    SHAPES,
)

Generator = np.random.Generator
BORDER_PX = 5
"""No 'where' about an item whose middle is so near to a line between places."""
RELATION_PX = 14
"""Least distance between the middles of two items, along the axis that a question compares."""

PHRASES: dict[str, tuple[str, ...]] = {
    "background": ("What is the background?", "Which background is this?"),
    "count shapes": ("How many shapes are there?", "Count the shapes."),
    "count shape": ("How many {shape}s are there?", "Count the {shape}s."),
    "count colour": ("How many {colour} shapes are there?", "Count the {colour} shapes."),
    "count digits": ("How many handwritten digits are there?", "Count the handwritten digits."),
    "colour of shape": ("What colour is the {shape}?", "Which colour has the {shape}?"),
    "shape of colour": ("What shape is {colour}?", "Which shape is {colour}?"),
    "colour of text": ("What colour is the {text}?", "Which colour has the {text}?"),
    "where": ("Where is the {thing}?", "In which place is the {thing}?"),
    "left or right": ("Is the {thing} left or right of the {other}?",),
    "above or below": ("Is the {thing} above or below the {other}?",),
    "extreme": ("Which shape is the {extreme} one?", "What is the {extreme} shape?"),
    "read": ("What is the {text}?", "What does the {text} say?", "Read the {text}."),
    "digit": ("What is the handwritten digit?", "Read the handwritten digit."),
    "digit of ink": ("What is the {ink} handwritten digit?", "Read the {ink} handwritten digit."),
}
EXTREMES: dict[str, tuple[int, int]] = {
    "leftmost": (0, 1),
    "rightmost": (0, -1),
    "highest": (1, 1),
    "lowest": (1, -1),
}
"""Axis of the middle, and the sign with which it is to be smallest."""


@dataclass(frozen=True)
class Question:
    """A question, its only right answer, and which of the five kinds it is."""

    prompt: str
    answer: str
    kind: str
    about: tuple[int, ...] = field(default=(), compare=False)
    """Places among the scene's items of those that the answer is read from."""

    @property
    def row(self) -> dict[str, str]:
        """What a line of samples.jsonl says of it."""
        return {"prompt": self.prompt, "answer": self.answer, "kind": self.kind}


def ask_questions(scene: Scene, kinds: list[str], rng: Generator) -> list[Question]:
    """One question per wanted kind, none twice; a kind the scene lacks is replaced by another."""
    asked: list[Question] = []
    for kind in kinds:
        for choice in (kind, *rng.permutation(KINDS)):
            question = ask_question(scene, str(choice), asked, rng)
            if question is not None:
                asked.append(question)
                break
    return asked


def ask_question(scene: Scene, kind: str, asked: list[Question], rng: Generator) -> Question | None:
    """A question of the kind that was not asked yet: first its form is drawn, then its subject."""
    forms = [form for owner, form in FORMS if owner == kind]
    known = {question.prompt for question in asked}
    for place in rng.permutation(len(forms)):
        options = [
            option
            for option in forms[int(place)](scene)
            if not known & {phrase.format(**option[1]) for phrase in PHRASES[option[0]]}
        ]
        if options:
            name, slots, answer, about = options[int(rng.integers(len(options)))]
            phrases = PHRASES[name]
            prompt = phrases[int(rng.integers(len(phrases)))].format(**slots)
            places = {id(item): place for place, item in enumerate(scene.items)}
            return Question(prompt, answer, kind, tuple(places[id(item)] for item in about))
    return None


Option = tuple[str, dict[str, str], str, Sequence[Item]]
"""Name of the phrase, what fills its slots, the answer, and the items it is read from."""


def ask_background(scene: Scene) -> list[Option]:
    return [("background", {}, scene.background, ())]


def ask_count_shapes(scene: Scene) -> list[Option]:
    shapes = scene.list_items("shape")
    return [("count shapes", {}, str(len(shapes)), shapes)]


def ask_count_some(scene: Scene) -> list[Option]:
    """Counts of one shape or colour; one option per count, so that 1 is not the usual answer."""
    shapes = scene.list_items("shape")
    by_count: dict[int, Option] = {}
    for name, count in Counter(item.name for item in shapes).items():
        same = [item for item in shapes if item.name == name]
        by_count[count] = ("count shape", {"shape": name}, str(count), same)
    for colour, count in Counter(item.colour for item in shapes).items():
        same = [item for item in shapes if item.colour == colour]
        by_count.setdefault(count, ("count colour", {"colour": colour}, str(count), same))
    return [by_count[count] for count in sorted(by_count)]


def ask_count_digits(scene: Scene) -> list[Option]:
    digits = scene.list_items("handwritten digit")
    return [("count digits", {}, str(len(digits)), digits)]


def ask_colour_of_shape(scene: Scene) -> list[Option]:
    shapes = scene.list_items("shape")
    counts = Counter(item.name for item in shapes)
    return [
        ("colour of shape", {"shape": item.name}, item.colour, [item])
        for item in shapes
        if counts[item.name] == 1
    ]


def ask_shape_of_colour(scene: Scene) -> list[Option]:
    shapes = scene.list_items("shape")
    counts = Counter(item.colour for item in shapes)
    return [
        ("shape of colour", {"colour": item.colour}, item.name, [item])
        for item in shapes
        if counts[item.colour] == 1
    ]


def ask_colour_of_text(scene: Scene) -> list[Option]:
    return [
        ("colour of text", {"text": item.role}, item.colour, [item])
        for item in scene.list_items(*ROLES[2:])
    ]


def name_things(scene: Scene) -> list[tuple[str, Item]]:
    """Items that a short name picks out, with that name."""
    shapes = scene.list_items("shape")
    counts = Counter((item.colour, item.name) for item in shapes)
    named = [
        (f"{item.colour} {item.name}", item)
        for item in shapes
        if counts[item.colour, item.name] == 1
    ]
    return named + [(item.role, item) for item in scene.list_items(*ROLES[2:])]


def find_place(item: Item) -> str | None:
    """Which of the nine places holds the item's middle; None near a line between two."""
    third_px = IMAGE_SIDE_PX / 3
    for middle in item.centre:
        if min(abs(middle - third_px), abs(middle - 2 * third_px)) < BORDER_PX:
            return None
    column, row = (int(middle // third_px) for middle in item.centre)
    return PLACES[row * 3 + column]


def ask_where(scene: Scene) -> list[Option]:
    places = [(name, item, find_place(item)) for name, item in name_things(scene)]
    return [
        ("where", {"thing": name}, place, [item])
        for name, item, place in places
        if place is not None
    ]


def ask_relation(scene: Scene) -> list[Option]:
    """Pairs of named things, compared along the axis on which they lie far enough apart."""
    options: list[Option] = []
    named = name_things(scene)
    for name, item in named:
        for other_name, other in named:
            slots = {"thing": name, "other": other_name}
            across, down = (mine - its for mine, its in zip(item.centre, other.centre, strict=True))
            if abs(across) >= RELATION_PX:
                options.append(
                    ("left or right", slots, "left" if across < 0 else "right", [item, other])
                )
            if abs(down) >= RELATION_PX:
                options.append(
                    ("above or below", slots, "above" if down < 0 else "below", [item, other])
                )
    return options


def ask_extreme(scene: Scene) -> list[Option]:
    """The shape furthest out, where at least two shape names compete and the lead is clear."""
    shapes = scene.list_items("shape")
    if len({item.name for item in shapes}) < 2:
        return []
    options: list[Option] = []
    for extreme, (axis, sign) in EXTREMES.items():
        ranked = sorted(shapes, key=lambda item: sign * item.centre[axis])
        if abs(ranked[0].centre[axis] - ranked[1].centre[axis]) >= RELATION_PX / 2:
            options.append(("extreme", {"extreme": extreme}, ranked[0].name, ranked[:1]))
    return options


def ask_big_text(scene: Scene) -> list[Option]:
    items = scene.list_items("big word", "big number")
    return [("read", {"text": item.role}, item.name, [item]) for item in items]


def ask_small_text(scene: Scene) -> list[Option]:
    items = scene.list_items("small word", "small number")
    return [("read", {"text": item.role}, item.name, [item]) for item in items]


def ask_digit(scene: Scene) -> list[Option]:
    digits = scene.list_items("handwritten digit")
    if len(digits) == 1:
        return [("digit", {}, digits[0].name, digits)]
    return [("digit of ink", {"ink": item.colour}, item.name, [item]) for item in digits]


FORMS: tuple[tuple[str, Callable[[Scene], list[Option]]], ...] = (
    ("global", ask_background),
    ("global", ask_count_shapes),
    ("global", ask_count_some),
    ("global", ask_count_digits),
    ("attribute", ask_colour_of_shape),
    ("attribute", ask_shape_of_colour),
    ("attribute", ask_colour_of_text),
    ("place", ask_where),
    ("place", ask_relation),
    ("place", ask_extreme),
    ("reading", ask_big_text),
    ("detail", ask_small_text),
    ("detail", ask_digit),
)


def list_phrases() -> Iterator[str]:
    """Every phrase and answer word with its slots filled, but nothing that a scene prints."""
    things = [f"{colour} {shape}" for colour in COLOUR_NAMES for shape in SHAPES] + list(ROLES[2:])
    slots = {
        "shape": SHAPES,
        "colour": COLOUR_NAMES,
        "ink": DARK_COLOURS,
        "text": ROLES[2:],
        "thing": tuple(things),
        "other": tuple(things[::7]),
        "extreme": tuple(EXTREMES),
    }
    for phrases in PHRASES.values():
        for phrase in phrases:
            for thing in things:
                place = sum(thing.encode())
                filled = {name: values[place % len(values)] for name, values in slots.items()}
                filled["thing"] = thing
                for turn in ("USER: ", "\n"):  # a later turn, and the first one after the image
                    yield turn + phrase.format(**filled) + " ASSISTANT:"
    for answer in (*BACKGROUNDS, *COLOUR_NAMES, *SHAPES, *PLACES, *NUMBER_NAMES):
        yield from [f" {answer}"] * 40
    yield from [f" {word}" for word in ("above", "below", "left", "right")] * 40
