"""Models without a language model: classifiers, embeddings, CLIP and SigLIP, depth, masks."""
