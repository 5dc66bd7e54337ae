"""Torch modules with static shapes, one per graph; Hugging Face's own layers run inside them.

A stage owns the names and examples of its `inputs` and the names of its `outputs`. Stages know no
lowering: attention is emitted by whatever `edgetok.export.attention` routes it to while they are
traced. Probes, such as attention of the CLS row, are a few rows beside the fused operator, reduced
to [N] in the graph. Prompts differ in what rows see and where they stand: `prompt` chooses among
causal ones (`decoder`), bidirectional ones (Gemma 3, PaliGemma), M-RoPE (Qwen-VL), and those whose
visual rows leave between layers (`prompt_reduced`), or at a layer that a signal names
(`prompt_segments`). What short convolutions remember (LFM2) is a buffer of its own.
"""
