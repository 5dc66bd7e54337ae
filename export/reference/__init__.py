"""The model in eager PyTorch, as Hugging Face runs it: what graphs are compared with.

Nothing here imports stages, lowerings or cache stores. Features and probes come from the model
itself (`output_hidden_states`, `output_attentions`), text from its own cache, or a list of rows per
layer and head (`cache`), where a scheme keeps other rows than Hugging Face does.
"""
