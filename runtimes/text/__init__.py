"""Prompts, and how tokens are drawn."""
