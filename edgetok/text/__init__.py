"""Prompts and answers as token ids, alike at export and on the device."""
