"""Model families: where tower, projector, decoder, embedding and prompt live in a checkpoint."""
