"""The demo model's tokenizer: byte-level BPE that knows questions and spells printed text."""

from questions import list_phrases
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
VOCABULARY_SIZE = 512
# Digits and capitals stand alone, so that a printed word or number is spelled character by
# character; the two names of the chat template and words like "What" stay whole.
SPELLED = r"USER|ASSISTANT|[0-9]|[A-Z](?=[A-Z]|\b)"

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}{{- 'ASSISTANT: ' -}}
{%- else -%}{{- 'USER: ' -}}{%- endif -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- else -%}{{- ' ' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
PREFIX = "<s>USER: <image>"
"""What stands before a first question, up to the image."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The same tokenizer each time: its merges come from the questions' phrases alone."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPELLED), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(list_phrases(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def render_question(question: str) -> str:
    """What follows the image token: newline, question, and the opening of the answer."""
    return f"\n{question} ASSISTANT:"


def render_turn(question: str) -> str:
    """A later question of a conversation, after the end of the answer before it."""
    return f"USER: {question} ASSISTANT:"
