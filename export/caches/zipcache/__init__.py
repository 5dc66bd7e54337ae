"""ZipCache (arXiv 2405.14256): salient rows in 4 bits, the others in 2."""
