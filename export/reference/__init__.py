"""The model in eager PyTorch, as Hugging Face runs it: what graphs are compared with.

Nothing here imports stages, lowerings or cache stores. Features and probes come from the model's own
`output_hidden_states` and `output_attentions`, text from its own cache, or from a list of rows per
layer and head (`cache`), where a scheme keeps other rows than Hugging Face does.
"""
