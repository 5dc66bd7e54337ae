"""ThinK (arXiv 2407.21018): older keys lose channels."""
