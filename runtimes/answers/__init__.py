"""Questions and answers: a loaded model, conversations, streams, traces."""
