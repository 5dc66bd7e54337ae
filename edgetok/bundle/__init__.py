"""The bundle on disk: its manifest, reader, writer and the admission of its graphs."""
