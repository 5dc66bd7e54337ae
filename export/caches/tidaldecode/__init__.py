"""TidalDecode (arXiv 2410.05076): a step reads a part of the rows."""
