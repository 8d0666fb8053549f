"""Model families, one file each; they share layers but never import each other."""
