"""Trains the demo model from nothing to its checkpoint, phase by phase.

Called again with the same folder and options it goes on where it stopped. Tower and decoder do not
wait for each other: two machines, or two calls with `--only`, can train them at the same time.
"""

import argparse
import sys
from pathlib import Path

import torch
import train_decoder
import train_joint
from journal import Settings
from lessons import ALL_TOKENS
from model_build import build_model, save_model
from plot import plot_log
from symbols import Symbols
from tower import TowerHeads
from train_tower import train_tower
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from workers import Workers


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for log and states")
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--tower-minutes", type=float, default=70)
    parser.add_argument("--decoder-minutes", type=float, default=50)
    parser.add_argument("--projector-minutes", type=float, default=4)
    parser.add_argument("--joint-minutes", type=float, default=30)
    parser.add_argument("--all-tokens-only", action="store_true", help="never sample visual tokens")
    parser.add_argument("--only", choices=("tower", "decoder"), help="train this phase and stop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="bf16 products in training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train_alone(
    arguments: argparse.Namespace,
    settings: Settings,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[TowerHeads | None, Symbols | None]:
    """The tower and the decoder, each by itself, as far as they are wanted."""
    heads = symbols = None
    if arguments.only != "decoder":
        heads = train_tower(settings, model.model.vision_tower, arguments.tower_minutes)
    if arguments.only != "tower":
        modes = ALL_TOKENS if arguments.all_tokens_only else train_decoder.MODES
        symbols = train_decoder.train_decoder(
            settings, model, tokenizer, arguments.decoder_minutes, modes
        )
    return heads, symbols


def main() -> int:
    """Runs the phases, writes the checkpoint and the curves."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # the workers are the threads
    arguments.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(arguments.device)
    workers = Workers(arguments.threads)
    settings = Settings(arguments.work, device, arguments.bf16, arguments.seed, workers)
    model, tokenizer = build_model(settings.seed)
    model.to(device)
    heads, symbols = train_alone(arguments, settings, model, tokenizer)
    if heads is None or symbols is None:
        return 0
    train_joint.train_projector(settings, model, symbols, arguments.projector_minutes)
    modes = ALL_TOKENS if arguments.all_tokens_only else train_joint.MODES
    train_joint.train_joint(settings, model, tokenizer, heads, arguments.joint_minutes, modes)
    save_model(model, tokenizer, arguments.output)
    plot_log(arguments.work / "log.jsonl", arguments.work / "curves.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
