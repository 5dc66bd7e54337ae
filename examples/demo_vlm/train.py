"""Trains the demo model from nothing to its checkpoint, phase by phase; resumes where it stopped."""

import argparse
import sys
from pathlib import Path

import torch
from journal import Settings
from model_build import build_model
from train_tower import train_tower


def main() -> int:
    """Parses the command line and runs the phases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for log and states")
    parser.add_argument("--tower-minutes", type=float, default=90)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="bf16 products in training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        arguments.work, torch.device(arguments.device), arguments.bf16, arguments.seed
    )
    model, _ = build_model(settings.seed)
    model.to(settings.device)
    train_tower(settings, model.model.vision_tower, arguments.tower_minutes, arguments.muon_lr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
