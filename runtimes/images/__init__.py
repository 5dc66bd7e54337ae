"""The images of a prompt: several of them, and frames of videos."""
