"""Every limit in one place, each with its reason."""

from __future__ import annotations

# --- bundles -----------------------------------------------------------------------------------
MANIFEST_BYTES = 1 << 20  # four rungs need about 30 KiB; more is an attack or a mistake
MANIFEST_DEPTH = 16  # the format nests 6 deep; json's parser recurses on depth
BUNDLE_FILES = 4096  # 64 rungs x 6 stages x 2 flavours is 768
GRAPH_BYTES = 64 << 20  # graphs carry no weights; a 30-layer decoder is about 200 KiB
GRAPH_NODES = 200_000  # an unrolled greedy selection of 1024 tokens has about 10,000
GRAPH_INLINE_TENSOR_BYTES = 1 << 20  # larger constants belong into the weights file
GRAPH_TENSOR_ELEMENTS = 1 << 33  # a 32 GiB fp32 tensor; no edge device holds one
GRAPH_TENSOR_RANK = 8  # attention over tiles has 6
BUNDLE_BYTES = 1 << 38  # 256 GiB; hashing more takes minutes on any disk
BUNDLE_READ_BYTES = 256 << 20  # files read whole: graphs, tokenizers, reports; weights are mapped
PROCESSOR_BYTES = 1 << 20  # image.json and prompt.json; a rendered chat template is a few KiB
PATH_CHARACTERS = 240  # below the 255 bytes of a file name, with room for a suffix
PATH_COMPONENTS = 8  # the format nests 3 deep
GOLDEN_BYTES = 256 << 20  # two cases of 64 rungs with 150,000 logits each need 80 MB
GOLDEN_CASES = 64  # the check on the target stays within seconds
GOLDEN_INPUT_BYTES = 16 << 20  # their list; a prompt of 32,000 ids takes 256 KiB
GOLDEN_INPUTS = 256  # texts or pictures whose ids and pixels are made again on the target
FREE_SPACE_FACTOR = 1.2  # an estimate of a bundle's size is not exact, nor is a disk's free space
TIMING_BYTES = 256 << 20  # timings of kernels between builds; one of a whole model is a few MiB
WEIGHTS_ALIGNMENT_BYTES = 4096  # a page, so that the file can be mapped tensor by tensor

# --- ladders -----------------------------------------------------------------------------------
BUCKETS = 64  # more rungs than anyone can calibrate
PROMPT_TOKENS = 32_768  # text tokens of one prompt rung
PROMPT_GRAPHS = 8  # of a rung, for prompts of so many lengths; each takes time to load
CACHE_SLOTS = 131_072  # KV slots of one rung
NEW_TOKENS = 32_768  # generated tokens per answer

# --- inputs ------------------------------------------------------------------------------------
IMAGE_PIXELS = 64_000_000  # 64 Mpx decode to 192 MB; cameras stay below, bombs do not
IMAGE_SIDE_PIXELS = 32_768  # beyond this, strides of thin images overflow resamplers
IMAGE_FILE_BYTES = 256 << 20  # nothing larger decodes below IMAGE_PIXELS
VIDEO_FRAMES = 1_000_000  # nine hours at 30 a second; their times take 8 MB
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")  # decoders with a fuzzing history; no PDF, EPS, FITS
PROMPT_BYTES = 1 << 20  # far above any prompt rung; bounds the tokenizer's work
SAMPLES_FILE_BYTES = 256 << 20  # about a million JSON lines
SAMPLES = 1_000_000
SAMPLE_LINE_BYTES = 1 << 20

# --- models to export ----------------------------------------------------------------------------
CONFIG_BYTES = 4 << 20  # the largest config.json seen is 60 KiB
TOKENIZER_BYTES = 256 << 20  # the largest tokenizer.json seen is 35 MB
CHAT_TEMPLATE_BYTES = 256 << 10  # the largest seen is 20 KiB
TILES = 64  # the largest grid of a published model has 36; each tile is a run of the tower
PICTURES = 64  # of one prompt; each is a run of the tower, and 64 frames are what papers look at
TOWER_SIDE_PIXELS = 4096  # 21,000 groups of 28 pixels: no decoder on a device reads more
SCORER_BYTES = 64 << 20  # a published one has five layers of 512 channels, about 2 MB
CHAT_TEMPLATE_SECONDS = 20  # rendering takes milliseconds; a template is code from a stranger
