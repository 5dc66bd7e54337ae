"""The demo's tokenizer, shapes and checkpoint."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "demo_vlm"
CHECKPOINT = FOLDER / "checkpoint"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def demo() -> Iterator[dict[str, ModuleType]]:
    """The example's modules, imported as its scripts import each other."""
    sys.path.insert(0, str(FOLDER))
    try:
        import make
        import model_build
        import packing
        import questions
        import tokenizer_build
        import vocabulary

        modules = [make, model_build, packing, questions, tokenizer_build, vocabulary]
        yield {module.__name__: module for module in modules}
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def tokenizer(demo):
    return demo["tokenizer_build"].build_tokenizer()


def test_tokenizer_is_the_same_each_time(demo, tokenizer):
    again = demo["tokenizer_build"].build_tokenizer()
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer) <= 512


def test_tokenizer_round_trip(demo, tokenizer):
    for _, questions in demo["make"].make_samples("calibrate", 60, 6):
        for question in questions:
            text = f"{question.prompt} ASSISTANT: {question.answer}"
            assert tokenizer.decode(tokenizer(text).input_ids) == text
    for text in ("naïve – 日本語 <tag> \t x", "USERS' 3.14", "a  b"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_printed_text_is_spelled_character_by_character(demo, tokenizer):
    for text in (*demo["vocabulary"].WORDS, "90210", "77"):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(f" {text}").input_ids)
        assert tokens == ["Ġ", *text]


def test_questions_take_few_tokens(demo, tokenizer):
    lengths = [
        len(tokenizer(question.prompt).input_ids)
        for _, questions in demo["make"].make_samples("calibrate", 60, 6)
        for question in questions
    ]
    assert max(lengths) <= 16


def test_chat_template_of_several_turns(tokenizer):
    image, text = {"type": "image"}, {"type": "text", "text": "What is the background?"}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "dots"}]}
    messages = [{"role": "user", "content": [image, text]}]
    first = "<s>USER: <image>\nWhat is the background? ASSISTANT:"
    render = tokenizer.apply_chat_template
    assert render(messages, add_generation_prompt=True, tokenize=False) == first
    messages += [answer, {"role": "user", "content": "Where is the star?"}]
    later = first + " dots</s>USER: Where is the star? ASSISTANT:"
    assert render(messages, add_generation_prompt=True, tokenize=False) == later


def test_packed_question_equals_its_prompt_alone(demo, tokenizer):
    """Tokens of the packed form are those of the rendered chat, cut at the image."""
    packer = demo["packing"].Packer(tokenizer)
    question = demo["questions"].Question("What is the big word?", "STOP", "reading")
    tokens, before = packer.tokenise(question, first=True)
    prompt = "<s>USER: <image>\nWhat is the big word? ASSISTANT:"
    whole = tokenizer(prompt).input_ids
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert [*packer.prefix, image, *tokens[:before]] == whole
    assert tokenizer.decode(tokens[before:]) == " STOP</s>"


def test_packed_questions_do_not_see_each_other(demo, tokenizer):
    """Logits of a question packed with others equal those of the question alone."""
    packing, Question = demo["packing"], demo["questions"].Question
    model, _ = demo["model_build"].build_model(0)
    packer = packing.Packer(tokenizer)
    questions = [
        Question("What is the big word?", "STOP", "reading"),
        Question("Where is the red star?", "top left", "place"),
    ]
    visual = torch.randn(1, 9, 256)

    def run(asked):
        pack = packer.pack([asked])
        embedded = torch.cat([visual, model.get_input_embeddings()(pack.tokens)], dim=1)
        output = model.model.language_model(
            inputs_embeds=embedded,
            attention_mask=packing.build_mask(pack, 9),
            position_ids=packing.build_positions(pack, 9),
            use_cache=False,
        )
        return output.last_hidden_state[0, 9:]

    with torch.no_grad():
        packed, alone = run(questions), run(questions[1:])
    assert torch.allclose(packed[-len(alone) :], alone, atol=1e-5)


def test_conversation_equals_its_rendered_chat(demo, tokenizer):
    """Turns packed as a conversation are the tokens of the chat template, and see their past."""
    packer, Question = demo["packing"].Packer(tokenizer), demo["questions"].Question
    turns = [
        Question("What is the big word?", "STOP", "reading"),
        Question("Where is the red star?", "top left", "place"),
    ]
    pack = packer.pack([turns], conversations=True)
    chat = "<image>\nWhat is the big word? ASSISTANT: STOP</s>"
    chat += "USER: Where is the red star? ASSISTANT: top left</s>"
    assert pack.tokens[0].tolist() == tokenizer(chat).input_ids[1:]
    assert pack.places[0].tolist() == list(range(pack.tokens.shape[1]))
    total = 3 + pack.tokens.shape[1]
    mask = demo["packing"].build_mask(pack, 3)[0, 0]
    assert mask.equal(torch.ones(total, total).tril().bool())


def test_training_tower_equals_the_hugging_face_tower(demo):
    """What the training script computes by hand is what the shipped model computes."""
    from decoder import look
    from tower import normalise, speed_up

    model, _ = demo["model_build"].build_model(0)
    tower = model.model.vision_tower.eval()
    pixels = torch.randint(0, 256, (1, 3, 192, 192), dtype=torch.uint8)
    with torch.no_grad():
        features, attention = look(tower, pixels)
        tower.set_attn_implementation("eager")
        output = tower(normalise(pixels), output_hidden_states=True, output_attentions=True)
        speed_up(tower)
        quick, _ = look(tower, pixels)
    assert torch.allclose(quick, features, atol=1e-4)
    assert torch.allclose(features, output.hidden_states[-2][:, 1:], atol=1e-4)
    expected = output.attentions[-2][:, :, 0, 1:].mean(1)
    assert torch.allclose(attention, expected, atol=1e-5)


@pytest.mark.skipif(not CHECKPOINT.exists(), reason="no checkpoint is trained yet")
def test_checkpoint_is_small_plain_and_loads():
    weights = list(CHECKPOINT.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) <= 28 * 2**20
    assert not list(CHECKPOINT.rglob("*.bin")) and not list(CHECKPOINT.rglob("*.py"))
    assert "auto_map" not in json.loads((CHECKPOINT / "config.json").read_text())
    model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        CHECKPOINT, output_loading_info=True
    )
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(parameter.numel() for parameter in model.parameters()) <= 14_000_000
    processor = transformers.AutoProcessor.from_pretrained(CHECKPOINT)
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == model.config.image_token_index


def test_evidence_of_a_printed_text_is_its_characters_in_turn(demo, tokenizer):
    """The patches that a character is read from show that character, by the scene's targets."""
    import lessons
    import pointing
    import targets

    rng = lessons.np.random.default_rng(0)
    known = [lessons.know_scene(seed) for seed in (3, 11)]
    kinds = ["reading", "detail", "place", "global"]
    questions = [demo["questions"].ask_questions(each.scene, kinds, rng) for each in known]
    pack = demo["packing"].Packer(tokenizer).pack(questions)
    marks = pointing.mark_evidence(known, questions, pack)
    rows, positions = pack.asked.nonzero(as_tuple=True)
    checked = 0
    for row, position, mark in zip(rows.tolist(), positions.tolist(), marks[0], strict=True):
        question = questions[row][pack.owner[row, position]]
        step = int(pack.steps[row, position])
        if question.kind != "reading" or not 0 < step <= len(question.answer):
            continue
        wanted = demo["vocabulary"].CHARACTERS.index(question.answer[step - 1])
        shown = known[row].points[mark][..., targets.WHAT_PLACE]
        assert (shown == targets.FIRST_CHARACTER + wanted).any(-1).all()
        assert mark.any()
        checked += 1
    assert checked >= 4


def test_pointing_loss_is_the_heads_own_attention(demo, tokenizer):
    """Computed apart, it equals what the model's eager attention gives the evidence."""
    import pointing

    model, _ = demo["model_build"].build_model(0)
    text = model.model.language_model
    packer = demo["packing"].Packer(tokenizer)
    pack = packer.pack([[demo["questions"].Question("What is the big word?", "STOP", "reading")]])
    visual, kept = torch.randn(1, 9, 256), 9
    evidence = torch.zeros(int(pack.asked.sum()), kept, dtype=torch.bool)
    evidence[:, 4] = True
    embed = model.get_input_embeddings()
    head = embed(torch.tensor(packer.prefix))[None]
    sequence = torch.cat([head, visual, embed(pack.tokens)], dim=1)
    text.set_attn_implementation("eager")
    with torch.no_grad():
        output = text(inputs_embeds=sequence, output_attentions=True, output_hidden_states=True)
        positions = torch.arange(sequence.shape[1])[None]
        turns = text.rotary_emb(sequence, position_ids=positions)
        place = pointing.LAYERS[0]
        scores = pointing.score_visual(
            text.layers[place], output.hidden_states[place], turns, pack, head.shape[1], kept
        )
        counted = torch.zeros(len(evidence), dtype=torch.bool)
        loss = pointing.compute_pointing_loss(*scores, evidence, counted)
    first = head.shape[1]
    asked = first + kept + pack.asked[0].nonzero()[:, 0]
    attention = output.attentions[place][0, pointing.HEAD, asked, first : first + kept]
    share = attention[:, 4] / attention.sum(-1)
    assert torch.allclose(loss, -share.log().mean(), atol=1e-4)


def test_counting_divides_attention_between_things_and_the_start(demo):
    """The loss is least where n things have n / (n + START_SHARE) of the attention."""
    import pointing

    things = torch.tensor([[True, True, False, False]])
    counted = torch.ones(1, dtype=torch.bool)

    def loss(share):
        score = torch.tensor([share / 2, share / 2, 1e-9, 1e-9]).log()[None]
        start = torch.tensor([[1 - share]]).log()
        return pointing.compute_pointing_loss(score, start, things, counted)

    best = 2 / (2 + pointing.START_SHARE)
    assert loss(best) < min(loss(best - 0.05), loss(best + 0.05))


@pytest.mark.slow
def test_the_recipe_runs_from_nothing_to_a_checkpoint_and_goes_on(tmp_path):
    """In seconds it learns nothing, but every phase runs, is saved and is taken up again."""
    phases = ("tower", "decoder", "projector", "joint")
    command = [sys.executable, "train.py", "--work", str(tmp_path / "work"), "--threads", "1"]
    command += ["-o", str(tmp_path / "model")]

    def train(minutes):
        budgets = [part for name in phases for part in (f"--{name}-minutes", str(minutes))]
        subprocess.run([*command, *budgets], cwd=FOLDER, check=True)
        states = [torch.load(tmp_path / "work" / f"{name}.pt")["steps"] for name in phases]
        transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "model")
        return states

    first = train(0.1)
    assert min(first) > 0
    assert train(0.1) == first
