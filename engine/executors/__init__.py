"""Ways to run a family, one file each: ``reference`` is the truth."""
