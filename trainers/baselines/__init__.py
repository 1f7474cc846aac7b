"""The other methods of the paper's tables, each with the prompt that it searches."""
