"""A pack, or the floats it was made of, as files for other engines."""
