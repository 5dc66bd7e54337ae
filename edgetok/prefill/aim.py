"""AIM, part in the language model (arXiv 2412.03248): PageRank over the attention of a layer.

Inputs: the whole attention of the layer before the cut, all heads, all S rows as queries: weight
moves along it from every row, so no fewer will do. It runs at the plateaus alone.

Logits are divided by 0.1 and weight starts even over all rows and moves along them five times; a
token's score is the root of the mean square over heads. Text stays. Kept positions.

Behind layers 14 to 21 of 28, an eighth more of the tokens goes each time, and layer 22 sees none:
for ratio r, r, 2r - 1, 3r - 2 and so on are left, at least none.

Frozen form: own formulation. The authors mask what goes, and its rows still hand on weight behind
later layers; here rows are really gathered.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import Counts, at_depths

LAYERS = (15, 16, 17, 18, 19, 20, 21, 22)  # that see fewer than those before them
OF_LAYERS = 28
STEPS = 5
SHARPNESS = 10  # 1 / temperature 0.1
SMALLEST = 1e-30


def counts(layers: int, visual: int, ratio: float) -> Counts:
    ratios = [max(0.0, 1 - (j + 1) * (1 - ratio)) for j in range(len(LAYERS))]
    return at_depths(layers, visual, LAYERS, ratios, OF_LAYERS)


def cut(look: Look, keep: int) -> tokens.Plan:
    attended = look.before.whole()  # [heads, S, S]
    relative = attended / attended.amax(2, keepdim=True).clamp(min=SMALLEST)
    sharp = relative**SHARPNESS
    moves = sharp / sharp.sum(2, keepdim=True).clamp(min=SMALLEST)
    rows = look.before.is_row()
    weight = (rows / rows.sum()).reshape(1, 1, -1).expand(moves.shape[0], 1, -1)
    for _ in range(STEPS):
        weight = weight @ moves
    scores = (weight[:, 0] ** 2).mean(0).sqrt()
    return tokens.Plan.gather(tokens.topk(look.before.place_visual(scores), keep), look.count)


METHOD = PrefillMethod(
    name="aim",
    paper="arXiv 2412.03248",
    verdict="own formulation",
    summary="ranks by PageRank over attention, down to none late in the decoder",
    positions="kept",
    reads=("previous attention",),
    ratio=7 / 8,
    ratio_is="share that stays at the first of eight even steps down",
    counts=counts,
    cut=cut,
    differs="100 % of the first cut on random attention, 96.7 % on real one (sums that underflow); "
    "gathers where they mask, so that rows that went hand on no weight later",
)
