"""The splits, written down once: a scene belongs to the split whose range holds its seed."""

from vocabulary import KINDS

SPLITS: dict[str, range] = {
    "train": range(0, 100_000_000),
    "calibrate": range(100_000_000, 101_000_000),
    "evaluate": range(101_000_000, 102_000_000),
    "reserved": range(102_000_000, 103_000_000),
}
USABLE = ("train", "calibrate", "evaluate")
"""`reserved` is for a future audit of overfitting to `evaluate`, and is used by nobody."""


def find_split(seed: int) -> str:
    """Name of the split that owns a scene seed."""
    for name, seeds in SPLITS.items():
        if seed in seeds:
            return name
    raise ValueError(f"scene seed {seed} lies in no split; the ranges are {SPLITS}")


def open_split(name: str) -> range:
    """Seeds of a split that may be used."""
    if name not in USABLE:
        raise ValueError(f"split {name!r} is not open for use; choose one of {', '.join(USABLE)}")
    return SPLITS[name]


__all__ = ["KINDS", "SPLITS", "USABLE", "find_split", "open_split"]
