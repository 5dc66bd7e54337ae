"""Trains the demo model from nothing to its checkpoint, phase by phase.

Called again with the same folder and options it goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

import torch
from journal import Settings
from model_build import build_model, save_model
from plot import plot_log
from train_decoder import train_answers
from train_tower import train_tower
from workers import Workers

DECODER_RATES = (0.02, 2e-3)
JOINT_RATES = (0.006, 6e-4)
"""Peak learning rates of Muon and AdamW."""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for log and states")
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--tower-minutes", type=float, default=90)
    parser.add_argument("--decoder-minutes", type=float, default=60)
    parser.add_argument("--joint-minutes", type=float, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="bf16 products in training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    """Runs the three phases, writes the checkpoint and the curves."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # the workers are the threads
    arguments.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(arguments.device)
    workers = Workers(arguments.threads)
    settings = Settings(arguments.work, device, arguments.bf16, arguments.seed, workers)
    model, tokenizer = build_model(settings.seed)
    model.to(device)
    heads = train_tower(settings, model.model.vision_tower, arguments.tower_minutes)
    for joint, minutes, rates in (
        (False, arguments.decoder_minutes, DECODER_RATES),
        (True, arguments.joint_minutes, JOINT_RATES),
    ):
        train_answers(settings, model, tokenizer, heads, minutes, rates, joint)
    save_model(model, tokenizer, arguments.output)
    plot_log(arguments.work / "log.jsonl", arguments.work / "curves.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
